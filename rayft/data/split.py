"""Which examples train, which validate, which test."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa

from rayft.config import DataConfig
from rayft.data.stratify import draw_stratified
from rayft.data.target import Targets
from rayft.errors import DataError

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}


def assign_splits(
    targets: Targets,
    class_names: tuple[str, ...],
    names: list[str],
    given: pa.Array | None,
    groups: pa.Array | None,
    config: DataConfig,
) -> np.ndarray:
    """Return train, validation or test for each example, string [n].

    The splits that the data names stand. A missing test or validation split is drawn from train:
    the given fraction of it, class by class (label by label where pictures have several), whole groups
    where there are groups. The draw is a pure function of ``config.split_seed`` and the names or groups,
    whatever their order.

    Args:
        targets: Classes of the n examples.
        class_names: Name of each class, for messages.
        names: Identity of each example.
        given: Split as the data names it, or None.
        groups: Group of each example, or None.
        config: Fractions and seed.

    Raises:
        DataError: An unknown split, a group in two splits, or too few examples to draw from.
    """
    splits = np.full(len(targets), "train", dtype=object) if given is None else _canonical(given)
    units = np.asarray(names if groups is None else _group_names(groups), dtype=object)
    if groups is not None:
        _check_groups(splits, units)
    was_train = splits == "train"
    for split, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction)):
        # Without any training example there is nothing to draw from; the caller refuses such data.
        if fraction > 0 and was_train.any() and not (splits == split).any():
            held_out = _draw(targets, class_names, units, splits == "train", was_train, fraction, config.split_seed)
            if not held_out.any():
                raise DataError(
                    f"data.{split}_fraction {fraction} of {was_train.sum()} training examples leaves the {split} split "
                    "empty, or a class without training examples.",
                    f"Add examples or groups, name a {split} split in the data, or set data.{split}_fraction to 0.",
                )
            splits[held_out] = split
    return splits


def _canonical(given: pa.Array) -> np.ndarray:
    if pa.types.is_dictionary(given.type):
        given = given.dictionary_decode()
    written = given.cast(pa.string()).to_pylist()
    for row, value in enumerate(written):
        if value not in SPLIT_NAMES:
            raise DataError(
                f"Row {row} has the split {value!r}; allowed are {', '.join(SPLIT_NAMES)}.",
                "Correct the split column, or name another one in data.columns.split.",
            )
    return np.array([SPLIT_NAMES[value] for value in written], dtype=object)


def _group_names(groups: pa.Array) -> list[str]:
    if pa.types.is_dictionary(groups.type):
        groups = groups.dictionary_decode()
    if groups.null_count:
        row = groups.is_null().to_pylist().index(True)
        raise DataError(f"Row {row} has no group (null).", "Give every example a group.")
    return groups.cast(pa.string()).to_pylist()


def _check_groups(splits: np.ndarray, units: np.ndarray) -> None:
    first: dict[str, str] = {}
    for unit, split in zip(units, splits, strict=True):
        if first.setdefault(unit, split) != split:
            raise DataError(
                f"Group {unit!r} lies in the splits {first[unit]} and {split}; examples of one group must not.",
                "Correct the split column, or name the right group column in data.columns.group.",
            )


def _draw(
    targets: Targets,
    class_names: tuple[str, ...],
    units: np.ndarray,
    available: np.ndarray,
    base: np.ndarray,
    fraction: float,
    seed: int,
) -> np.ndarray:
    """Mark the examples to hold out, bool [n]; ``fraction`` is of ``base``, drawn from ``available``."""
    members: dict[str, list[int]] = {}
    for index in np.flatnonzero(available).tolist():
        members.setdefault(units[index], []).append(index)
    ranks = {unit: hashlib.blake2b(f"{seed}:{unit}".encode(), digest_size=16).digest() for unit in members}
    members = {unit: members[unit] for unit in sorted(members, key=ranks.__getitem__)}
    if targets.offsets is not None:
        return draw_stratified(members, targets, fraction * base.sum() / available.sum())
    return _draw_by_class(targets.numbers, class_names, members, available, base, fraction)


def _draw_by_class(
    labels: np.ndarray,
    class_names: tuple[str, ...],
    members: dict[str, list[int]],
    available: np.ndarray,
    base: np.ndarray,
    fraction: float,
) -> np.ndarray:
    numbers = labels.tolist()
    left = np.bincount(labels[available], minlength=len(class_names))
    _check_divisible(labels, class_names, left)
    targets = _targets(np.bincount(labels[base], minlength=len(class_names)), left, fraction).tolist()
    remaining, taken = left.tolist(), [0] * len(class_names)
    held_out = np.zeros(len(labels), dtype=bool)
    for examples in members.values():
        counts = Counter(numbers[index] for index in examples)
        # A group counts for the class that most of its examples have.
        label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        keeps_classes = all(remaining[other] > number for other, number in counts.items())
        # Take a whole group while at least half of it is still wanted.
        if keeps_classes and taken[label] + count / 2 <= targets[label]:
            held_out[examples] = True
            for other, number in counts.items():
                taken[other] += number
                remaining[other] -= number
    return held_out


def _check_divisible(labels: np.ndarray, class_names: tuple[str, ...], left: np.ndarray) -> None:
    small = [class_names[label] for label in np.unique(labels) if left[label] < 2]
    if small:
        raise DataError(
            f"{len(small)} classes have fewer than 2 training examples to divide: {', '.join(small[:10])}.",
            "Add examples, remove the classes, or set data.validation_fraction and data.test_fraction to 0.",
        )


def _targets(base: np.ndarray, left: np.ndarray, fraction: float) -> np.ndarray:
    """Share the wanted total over classes by largest remainder; each keeps one example."""
    ideal = base * fraction
    limit = np.maximum(left - 1, 0)
    targets = np.minimum(np.floor(ideal).astype(int), limit)
    wanted = max(1, round(ideal.sum()))
    for label in np.argsort(-(ideal - np.floor(ideal)), kind="stable"):
        if targets.sum() < wanted and targets[label] < limit[label]:
            targets[label] += 1
    return targets
