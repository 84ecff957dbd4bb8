"""The largest batch that fits: the arithmetic, and one real probe."""

import pytest
from test_learn_step import CLASSES, backbone, make_config  # noqa: F401

from rayft.errors import RunFailed
from rayft.learn.batch_size import SAFETY, available_memory, choose_batch_size, extrapolate, largest_batch

MIB = 2**20


def test_the_growth_between_two_sizes_gives_the_size_at_which_memory_ends():
    # 10 MiB an example and 50 MiB at once: 60% of 1,000 MiB hold (600 - 50) / 10 = 55.
    peaks = {0: 0, **{size: (50 + 10 * size) * MIB for size in (4, 8, 16)}}
    assert extrapolate(peaks, 1000 * MIB, 512) == 55
    assert extrapolate(peaks, 1000 * MIB, 40) == 40


def test_growth_that_drowns_is_no_measure_until_memory_is_near():
    peaks = {0: 0, 4: 50 * MIB, 8: 51 * MIB}
    assert extrapolate(peaks, 1000 * MIB, 512) is None
    assert extrapolate({0: 0, 4: 50 * MIB}, 1000 * MIB, 512) is None
    # Another doubling would take 2 MiB; the one that is left holds 4 examples more.
    assert extrapolate(peaks, int(52 * MIB / SAFETY) + 16, 512) == 8 + 4
    assert extrapolate({0: 0, 4: 50 * MIB, 8: 300 * MIB}, 200 * MIB, 512) == 4
    assert extrapolate({0: 0, 4: 250 * MIB, 8: 300 * MIB}, 200 * MIB, 512) == 0


@pytest.mark.parametrize(
    ("local", "workers", "train_size", "expected"),
    [
        (100, 1, 10_000, 64),
        (100, 2, 10_000, 128),
        (100, 3, 10_000, 256),
        (100, 1, 698, 64),
        (100, 1, 230, 16),
        (64, 1, 640, 64),
        (5000, 3, 12, 4),
    ],
)
def test_the_batch_is_a_power_of_two_that_fits_and_leaves_ten_steps_an_epoch(local, workers, train_size, expected):
    assert choose_batch_size(local, workers, train_size) == expected


def test_a_probe_takes_real_steps_and_stops_at_the_bound(backbone):  # noqa: F811
    config = make_config(backbone, data={"global_batch_size": "auto"})
    beats = []
    assert largest_batch(config, CLASSES, most=6, memory=available_memory(), alive=lambda: beats.append(1)) == 6
    assert len(beats) == 2
    with pytest.raises(RunFailed, match="Not even one example fits"):
        largest_batch(config, CLASSES, most=4096, memory=-(2**40))
