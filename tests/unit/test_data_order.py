import numpy as np
import pytest

from rayft.data.order import batch_positions, replica_slice, steps_per_epoch


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
    slices = [replica_slice(10, num_workers, rank) for rank in range(num_workers)]
    assert np.array_equal(np.concatenate([batch[start:stop] for start, stop in slices]), batch)
    assert len({stop - start for start, stop in slices}) == 1


def test_steps_cover_a_size_that_no_batch_divides():
    assert [steps_per_epoch(n, 32) for n in (1, 32, 33)] == [1, 1, 2]
