"""Counts of scores in bins, that workers can add up."""

from __future__ import annotations

import tensorflow as tf

from rayft.evaluation.ranking import LOG_ODDS_LIMIT, num_bins


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
