"""How well scores order examples, from counts that workers can add up."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

LOG_ODDS_LIMIT = 16.0
MOST_BINS = 1024
FEWEST_BINS = 64
_BINS_OF_ALL = 1 << 20


def num_bins(classes: int) -> int:
    """Return the bins of each class: 1024 up to a thousand classes, fewer beyond."""
    return max(FEWEST_BINS, min(MOST_BINS, _BINS_OF_ALL // classes))


def counts_size(classes: int) -> int:
    """Return the length of the vector that ``rank_counts`` gives."""
    return 2 * classes * num_bins(classes)


def rank_counts(targets: tf.Tensor, log_odds: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Count examples with and without each class by score.

    The score is the log-odds of the class, in equal bins from -16 to 16: 1/32 wide with 1024 bins. Scores
    in one bin count as equal.

    Args:
        targets: float64 [b, classes], 1 where the class is there and 0 where not.
        log_odds: float64 [b, classes].
        weight: float64 [b], 0 marks padding.

    Returns:
        float64 [2 * classes * bins]: with the class, then without it.
    """
    classes = log_odds.shape[-1]
    bins = num_bins(classes)
    scaled = (log_odds + LOG_ODDS_LIMIT) * (bins / (2 * LOG_ODDS_LIMIT))
    bounded = tf.clip_by_value(scaled, 0.0, bins - 1.0)
    # A score that is not a number has no place; any will do, as long as it is one.
    place = tf.clip_by_value(tf.cast(tf.floor(bounded), tf.int32), 0, bins - 1) + tf.range(classes) * bins
    present = targets * weight[:, None]
    counted = [present, weight[:, None] - present]
    index = tf.reshape(place, [-1])
    return tf.concat(
        [tf.math.unsorted_segment_sum(tf.reshape(part, [-1]), index, classes * bins) for part in counted], axis=0
    )


def softmax_log_odds(logits: tf.Tensor) -> tf.Tensor:
    """Return log(p / (1 - p)) of the softmax probabilities, shape and dtype of the logits [b, classes]."""
    log_p = tf.nn.log_softmax(logits)
    return log_p - tf.math.log(-tf.math.expm1(log_p))


def macro_auc(counts: np.ndarray, classes: int) -> float:
    """Return the area under the ROC curve, one class against the rest, averaged over classes.

    Classes that all examples have, or none, are left out; without any other it is .5, that of chance.

    Args:
        counts: Of ``rank_counts``, summed over all batches and workers.
        classes: Number of classes.
    """
    present, absent = counts.reshape(2, classes, -1)
    below = np.cumsum(absent, axis=1) - absent
    pairs = present.sum(axis=1) * absent.sum(axis=1)
    ordered = (present * (below + absent / 2)).sum(axis=1)
    defined = pairs > 0
    return float(np.mean(ordered[defined] / pairs[defined])) if defined.any() else 0.5


def mean_average_precision(counts: np.ndarray, classes: int) -> float:
    """Return the mean over classes of the average precision: precision at each threshold times the recall gained.

    Classes that no example has are left out; without any other it is 0. ``counts`` as in ``macro_auc``.
    """
    present, absent = counts.reshape(2, classes, -1)[:, :, ::-1]
    total = present.sum(axis=1)
    defined = total > 0
    if not defined.any():
        return 0.0
    hits, misses = np.cumsum(present, axis=1)[defined], np.cumsum(absent, axis=1)[defined]
    precision = hits / np.maximum(hits + misses, 1)
    return float(np.mean((precision * present[defined]).sum(axis=1) / total[defined]))
