"""How well scores order examples, from counts of scores in bins."""

from __future__ import annotations

import numpy as np

LOG_ODDS_LIMIT = 16.0
MOST_BINS = 1024
FEWEST_BINS = 64
_BINS_OF_ALL = 1 << 20


def num_bins(classes: int) -> int:
    """Return the bins of each class: 1024 up to a thousand classes, fewer beyond."""
    return max(FEWEST_BINS, min(MOST_BINS, _BINS_OF_ALL // classes))


def counts_size(classes: int) -> int:
    """Return the length of all counts: examples with and without each class, by bin."""
    return 2 * classes * num_bins(classes)


def macro_auc(counts: np.ndarray, classes: int) -> float:
    """Return the area under the ROC curve, one class against the rest, averaged over classes.

    Classes that all examples have, or none, are left out; without any other it is .5, that of chance.

    Args:
        counts: [2 * classes * bins]: examples with each class by bin of their score, then those without it.
        classes: Number of classes.
    """
    present, absent = counts.reshape(2, classes, -1)
    below = np.cumsum(absent, axis=1) - absent
    pairs = present.sum(axis=1) * absent.sum(axis=1)
    ordered = (present * (below + absent / 2)).sum(axis=1)
    defined = pairs > 0
    return float(np.mean(ordered[defined] / pairs[defined])) if defined.any() else 0.5


def average_precision(present: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Return precision at each threshold times the recall gained there, summed.

    Args:
        present: [..., bins], examples with the class, by score from low to high.
        absent: [..., bins], those without it.

    Returns:
        [...], NaN where no example has the class.
    """
    present, absent = present[..., ::-1], absent[..., ::-1]
    hits, misses = np.cumsum(present, axis=-1), np.cumsum(absent, axis=-1)
    precision = hits / np.maximum(hits + misses, 1)
    total = present.sum(axis=-1)
    return np.where(total > 0, (precision * present).sum(axis=-1) / np.maximum(total, 1), np.nan)


def mean_average_precision(counts: np.ndarray, classes: int) -> float:
    """Return the mean over classes of the average precision.

    Classes that no example has are left out; without any other it is 0. ``counts`` as in ``macro_auc``.
    """
    present, absent = counts.reshape(2, classes, -1)
    each = average_precision(present, absent)
    defined = ~np.isnan(each)
    return float(each[defined].mean()) if defined.any() else 0.0
