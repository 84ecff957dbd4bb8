"""Metrics where a picture may have any number of the classes, exact for any number of workers."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.evaluation.measure import expected_calibration_error
from rayft.evaluation.ranking import counts_size, macro_auc, mean_average_precision
from rayft.learn.metrics import CALIBRATION_BINS, calibration_sums
from rayft.learn.ranking import rank_counts


def sums_size(classes: int) -> int:
    """Return the length of the vector that ``metric_sums`` gives."""
    return 3 + 3 * classes + 3 * CALIBRATION_BINS + counts_size(classes)


def metric_sums(labels: tf.Tensor, logits: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Return sums over examples from which every metric follows; sums of batches and workers are added.

    Args:
        labels: float32 [b, classes] of 0 and 1.
        logits: float [b, classes]; a class is predicted above 0, which is probability .5.
        weight: float [b], 0 marks padding.

    Returns:
        float64 [3 + 3 * classes + 3 * bins + counts]: examples, wholly correct, log-loss; per class: labelled,
        predicted, both; ``calibration_sums`` of all labels of all examples; ``rank_counts``.
    """
    logits = tf.cast(logits, tf.float64)
    labels = tf.cast(labels, tf.float64)
    weight = tf.cast(weight, tf.float64)
    predicted = tf.cast(logits > 0, tf.float64)
    correct = weight * tf.cast(tf.reduce_all(predicted == labels, axis=1), tf.float64)
    nll = weight * tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), axis=1)

    each = tf.reshape(tf.broadcast_to(weight[:, None], tf.shape(labels)), [-1])

    def per_class(values: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matvec(values, weight, transpose_a=True)

    return tf.concat(
        [
            tf.stack([tf.reduce_sum(value) for value in (weight, correct, nll)]),
            per_class(labels),
            per_class(predicted),
            per_class(labels * predicted),
            calibration_sums(tf.reshape(tf.sigmoid(logits), [-1]), each * tf.reshape(labels, [-1]), each),
            rank_counts(labels, logits, weight),
        ],
        axis=0,
    )


def metrics_from_sums(sums: np.ndarray, classes: int) -> dict[str, float]:
    """Turn sums over a whole split into metrics.

    accuracy counts examples whose set of classes is exactly right. macro_f1 averages 2 TP / (labelled +
    predicted) over the classes that occur among labels or predictions. auc is the macro ROC AUC, map the mean
    average precision; see ``rayft.learn.ranking.rank_counts`` for their resolution. log_loss is the mean over
    classes, in nats. ece compares the probability of each label of each example with how often it is there, in 15
    equal bins.

    Args:
        sums: float64, of ``metric_sums``, summed over all batches and workers.
        classes: Number of classes.
    """
    examples, correct, nll = sums[:3]
    labelled, predicted, both = sums[3 : 3 + 3 * classes].reshape(3, classes)
    calibration, counts = np.split(sums[3 + 3 * classes :], [3 * CALIBRATION_BINS])
    occurring = labelled + predicted > 0
    f1 = 2 * both[occurring] / (labelled + predicted)[occurring]
    return {
        "accuracy": float(correct / examples),
        "macro_f1": float(np.mean(f1)) if occurring.any() else 0.0,
        "auc": macro_auc(counts, classes),
        "map": mean_average_precision(counts, classes),
        "log_loss": float(nll / examples),
        "ece": expected_calibration_error(*calibration.reshape(3, CALIBRATION_BINS)),
    }
