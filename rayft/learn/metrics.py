"""Classification metrics, exact over a whole split for any number of workers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.config.train import LOWER_IS_BETTER
from rayft.evaluation.measure import expected_calibration_error
from rayft.evaluation.ranking import counts_size, macro_auc
from rayft.learn.ranking import rank_counts, softmax_log_odds

CALIBRATION_BINS = 15


def metric_sums(labels: tf.Tensor, logits: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Return sums over examples from which every metric follows.

    Sums of several batches, or of several workers, are added to give those of the whole.

    Args:
        labels: int32 [b].
        logits: float [b, classes].
        weight: float [b], 0 marks padding.

    Returns:
        float64 [4 + 3 * classes + 3 * bins + counts]: examples, correct, correct among the best five,
        log-loss; per class: labelled, predicted, both; per confidence bin: examples, correct, confidence;
        ``rank_counts`` of each class against the rest.
    """
    classes = logits.shape[-1]
    logits = tf.cast(logits, tf.float64)
    weight = tf.cast(weight, tf.float64)
    predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
    correct = weight * tf.cast(predicted == labels, tf.float64)
    in_top = weight * tf.cast(tf.math.in_top_k(labels, tf.cast(logits, tf.float32), k=min(5, classes)), tf.float64)
    nll = weight * tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    confidence = tf.reduce_max(tf.nn.softmax(logits), axis=1)

    def per(index: tf.Tensor, values: tf.Tensor, size: int) -> tf.Tensor:
        return tf.math.unsorted_segment_sum(values, index, size)

    return tf.concat(
        [
            tf.stack([tf.reduce_sum(value) for value in (weight, correct, in_top, nll)]),
            per(labels, weight, classes),
            per(predicted, weight, classes),
            per(labels, correct, classes),
            calibration_sums(confidence, correct, weight),
            rank_counts(tf.one_hot(labels, classes, dtype=tf.float64), softmax_log_odds(logits), weight),
        ],
        axis=0,
    )


def calibration_sums(probability: tf.Tensor, happened: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Sort probabilities into equal bins.

    Args:
        probability: float64 [n].
        happened: float64 [n], times the weight, whether what it is the probability of was so.
        weight: float64 [n], 0 marks padding.

    Returns:
        float64 [3 * bins]: how many, how often it was so, sum of the probabilities.
    """
    bins = tf.clip_by_value(
        tf.cast(tf.math.ceil(probability * CALIBRATION_BINS), tf.int32) - 1, 0, CALIBRATION_BINS - 1
    )
    values = (weight, happened, weight * probability)
    return tf.concat([tf.math.unsorted_segment_sum(value, bins, CALIBRATION_BINS) for value in values], axis=0)


def sums_size(classes: int) -> int:
    """Return the length of the vector that ``metric_sums`` gives."""
    return 4 + 3 * classes + 3 * CALIBRATION_BINS + counts_size(classes)


def metrics_from_sums(sums: np.ndarray, classes: int) -> dict[str, float]:
    """Turn sums over a whole split into metrics.

    macro_f1 averages 2 TP / (labelled + predicted) over the classes that occur among labels or
    predictions. ece is the expected calibration error over 15 equal bins (Guo et al. 2017,
    arXiv:1706.04599). log_loss is in nats. auc is the macro ROC AUC of each class against the rest; see
    ``rayft.learn.ranking.rank_counts`` for its resolution.

    Args:
        sums: float64, of ``metric_sums``, summed over all batches and workers.
        classes: Number of classes.
    """
    examples, correct, in_top, nll = sums[:4]
    labelled, predicted, both = sums[4 : 4 + 3 * classes].reshape(3, classes)
    calibration, counts = np.split(sums[4 + 3 * classes :], [3 * CALIBRATION_BINS])
    occurring = labelled + predicted > 0
    f1 = 2 * both[occurring] / (labelled + predicted)[occurring]
    return {
        "accuracy": float(correct / examples),
        "top5": float(in_top / examples),
        "macro_f1": float(np.mean(f1)),
        "auc": macro_auc(counts, classes),
        "log_loss": float(nll / examples),
        "ece": expected_calibration_error(*calibration.reshape(3, CALIBRATION_BINS)),
    }


def is_better(metric: str, new: dict[str, float], old: dict[str, float] | None) -> bool:
    """Tell whether metrics are better than earlier ones; None is worse than anything.

    Equal values are common on a small validation split; the lower log_loss then decides.
    """
    if old is None:
        return True
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return (sign * new[metric], -new["log_loss"]) > (sign * old[metric], -old["log_loss"])
