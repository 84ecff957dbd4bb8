import numpy as np
import pytest

from rayft.data.order import batch_positions, replica_positions, steps_per_epoch


def test_each_epoch_is_a_permutation_and_no_two_are_alike():
    epochs = []
    for epoch in range(3):
        steps = range(epoch * 4, epoch * 4 + 4)
        batches = [batch_positions(10, 3, 7, step) for step in steps]
        assert [len(batch) for batch in batches] == [3, 3, 3, 1]
        epochs.append(np.concatenate(batches))
        assert sorted(epochs[-1]) == list(range(10))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_a_batch_depends_on_seed_and_step_alone():
    want = batch_positions(100, 8, 1, 30).copy()
    for step in (0, 99, 17):
        batch_positions(100, 8, 2, step)
    assert np.array_equal(batch_positions(100, 8, 1, 30), want)
    assert not np.array_equal(batch_positions(100, 8, 2, 30), want)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("step", [0, 6])
def test_the_replicas_together_hold_the_batch(num_workers, step):
    batch = batch_positions(61, 10, 0, step)
    places = [replica_positions(10, num_workers, rank) for rank in range(num_workers)]
    assert np.array_equal(np.concatenate([batch[each[each < len(batch)]] for each in places]), batch)
    assert len({len(each) for each in places}) == 1


def test_what_is_in_a_part_of_a_batch_does_not_depend_on_the_workers():
    # 10 in 3 parts: 4, 4, 2; two workers hold 2 of each part, or padding.
    assert [replica_positions(10, 2, rank, parts=3).tolist() for rank in (0, 1)] == [
        [0, 1, 4, 5, 8, 9],
        [2, 3, 6, 7, 10, 10],
    ]
    for num_workers in (1, 2, 3):
        by_rank = [replica_positions(10, num_workers, rank, parts=3).reshape(3, -1) for rank in range(num_workers)]
        parts = np.concatenate(by_rank, axis=1)
        assert [sorted(part[part < 10].tolist()) for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_steps_cover_a_size_that_no_batch_divides():
    assert [steps_per_epoch(n, 32) for n in (1, 32, 33)] == [1, 1, 2]
