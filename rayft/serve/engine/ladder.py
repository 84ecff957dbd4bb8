"""The batch sizes that run, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping


def ladder(max_batch_size: int) -> tuple[int, ...]:
    """Return the powers of two up to a size, and the size itself."""
    sizes = [1]
    while sizes[-1] * 2 <= max_batch_size:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes if sizes[-1] == max_batch_size else [*sizes, max_batch_size])


def padded_size(rows: int, sizes: tuple[int, ...]) -> int:
    """Return the smallest size that holds so many rows."""
    return next(size for size in sizes if size >= rows)


def choose_size(waiting: int, seconds: Mapping[int, float]) -> int:
    """Choose the size of the next pass: the one with the least time for each picture that it answers.

    Where a pass costs the same at every size, as on a GPU that is not full, that is the size that holds all who
    wait. Where it costs so much a picture, as on a CPU, it is the largest that they fill, and the rest follow.

    Args:
        waiting: Pictures that wait, at least 1.
        seconds: Measured time of one pass by size.
    """
    return min(seconds, key=lambda size: (seconds[size] / min(size, waiting), -min(size, waiting)))
