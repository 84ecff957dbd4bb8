"""Traps of small data, said before and after the training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Moving statistics that still hold this part of their initial values are no statistics of the data.
STALE_PART = 0.05
# Half of the 95% interval of an accuracy above which reported differences are mostly chance.
WIDE_POINTS = 0.02
# Peak rates at which pretrained features are overwritten rather than adapted.
HARMFUL_RATES = {"sgd": 0.1}
HARMFUL_RATE = 2e-3


def batch_norm_notice(momentum: float, steps: int) -> str | None:
    """Say when moving statistics cannot reach the data within a run.

    After n steps a moving mean holds momentum^n of its start.

    Args:
        momentum: Largest of the BatchNormalization layers that train.
        steps: Of the whole run.
    """
    left = momentum**steps
    if left <= STALE_PART:
        return None
    enough = math.ceil(math.log(STALE_PART) / math.log(momentum))
    return (
        f"BatchNorm trains with momentum {momentum:g} over {steps} steps: {left:.0%} of its moving statistics will "
        f"still be their initial values, and evaluation uses them. It takes {enough} steps; "
        "train longer, or set freeze.batch_norm: frozen."
    )


def class_notices(train_labels: np.ndarray, validation_labels: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Say when there is little to learn from or to measure on.

    Args:
        train_labels: Class of each training example, int [n].
        validation_labels: Class of each validation example, int [m].
        labels: Names of the classes.
    """
    notices = []
    if len(train_labels) < 2 * len(labels):
        notices.append(
            f"{len(train_labels)} training examples for {len(labels)} classes: fewer than two a class. "
            "Freeze the whole backbone, and add examples."
        )
    counts = np.bincount(validation_labels, minlength=len(labels))
    missing = [labels[index] for index in np.flatnonzero(counts == 0).tolist()]
    if missing and len(validation_labels):
        shown = ", ".join(missing[:5]) + (" and more" if len(missing) > 5 else "")
        notices.append(
            f"{len(missing)} of {len(labels)} classes have no validation example: {shown}. "
            "The best epoch is chosen without them; raise data.validation_fraction."
        )
    if not len(validation_labels):
        notices.append("There is no validation split: no epoch is chosen as best, and no figure tells of overfitting.")
    return notices


def accuracy_notice(accuracy: float, examples: int) -> str | None:
    """Say when a split is too small for the differences that its accuracy seems to show.

    Half of the 95% interval by Wilson's score, which holds near 0 and 1 too.

    Args:
        accuracy: Observed, 0..1.
        examples: In the split.
    """
    half = wilson_half_width(accuracy, examples)
    if half <= WIDE_POINTS:
        return None
    return (
        f"The validation split has {examples} examples: an accuracy of {accuracy:.3f} there is uncertain by "
        f"{100 * half:.1f} points either way (95%); smaller differences between runs may be chance."
    )


def rate_notice(optimizer: str, peak: float, trains_pretrained: bool) -> str | None:
    """Say when the learning rate is known to destroy pretrained features.

    Args:
        optimizer: Name, lower case.
        peak: Highest rate at which pretrained blocks train.
        trains_pretrained: Whether any do.
    """
    limit = HARMFUL_RATES.get(optimizer, HARMFUL_RATE)
    if not trains_pretrained or peak < limit:
        return None
    return (
        f"Pretrained blocks train at a rate of {peak:g} with {optimizer}; from {limit:g} on such rates overwrite what "
        "they know. Use a tenth of it, or freeze.depth: all."
    )


def wilson_half_width(proportion: float, examples: int, z: float = 1.959964) -> float:
    """Return half the width of Wilson's score interval.

    Source: Wilson 1927, JASA 22.
    """
    spread = proportion * (1 - proportion) / examples + z**2 / (4 * examples**2)
    return z * math.sqrt(spread) / (1 + z**2 / examples)
