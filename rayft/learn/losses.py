"""Losses of one example each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from rayft.config import TrainConfig
from rayft.data.objective import Objective
from rayft.errors import ConfigError
from rayft.imports import load_object

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, *, smoothing: float = 0.0) -> tf.Tensor:
    """Softmax cross-entropy, with label smoothing.

    Args:
        labels: int32 [b] classes, or float [b, classes] probabilities of the classes.
        logits: float [b, classes].
        smoothing: Probability spread evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567).

    Returns:
        float [b], nats.
    """
    if smoothing == 0 and labels.shape.rank == 1:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    target = soft_targets(labels, logits) * (1 - smoothing) + smoothing / logits.shape[-1]
    return tf.nn.softmax_cross_entropy_with_logits(target, logits)


def focal(labels: tf.Tensor, logits: tf.Tensor, *, smoothing: float = 0.0, gamma: float = 2.0) -> tf.Tensor:
    """Cross-entropy times (1 - p)^gamma, p the probability of the label; linear in soft labels.

    Source: Lin et al. 2017, arXiv:1708.02002. Shapes as in ``cross_entropy``.
    """
    nats = -tf.nn.log_softmax(logits)
    each = nats * (1 - smoothing) + smoothing * tf.reduce_mean(nats, axis=1, keepdims=True)
    modulated = tf.pow(1 - tf.nn.softmax(logits), gamma) * each
    return tf.reduce_sum(soft_targets(labels, logits) * modulated, axis=1)


def soft_targets(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return labels as probabilities of the classes [b, classes], in the format of the logits."""
    if labels.shape.rank == 1:
        return tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return tf.cast(labels, logits.dtype)


def binary_cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, *, smoothing: float = 0.0, class_weights: np.ndarray | None = None
) -> tf.Tensor:
    """Sigmoid cross-entropy of each class on its own, averaged over classes.

    Args:
        labels: float [b, classes] in 0..1, or int32 [b] classes.
        logits: float [b, classes].
        smoothing: Probability moved from a label to its contrary and back, half of it each way.
        class_weights: Factor [classes] of present labels.

    Returns:
        float [b], nats.
    """
    target = soft_targets(labels, logits) * (1 - smoothing) + smoothing / 2
    factor = tf.ones([1], logits.dtype) if class_weights is None else tf.cast(class_weights, logits.dtype)
    return tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(target, logits, factor), axis=1)


NAMED = {"cross_entropy": cross_entropy, "focal": focal, "binary_cross_entropy": binary_cross_entropy}


def get_loss(config: TrainConfig, objective: Objective) -> Loss:
    """Return the loss that the config names, with the weights of the classes.

    Where pictures have one label, the loss of an example is multiplied by the weight of its class (of mixed
    labels: by the mean weight); where they have several, the weight is that of a present label.

    Raises:
        ConfigError: As in ``plain_loss``.
    """
    weights = objective.class_weights
    if weights is not None and objective.multi_label:
        return partial(binary_cross_entropy, smoothing=config.label_smoothing, class_weights=weights)
    loss = plain_loss(config, multi_label=objective.multi_label)
    if weights is None:
        return loss

    def weighted(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        each = loss(labels, logits)
        return each * tf.cast(
            tf.linalg.matvec(soft_targets(labels, logits), tf.cast(weights, logits.dtype)), each.dtype
        )

    return weighted


def plain_loss(config: TrainConfig, *, multi_label: bool) -> Loss:
    """Return the loss that the config names: (labels int32 [b], logits [b, classes]) -> float [b].

    Raises:
        ConfigError: The name is unknown, or an own loss is asked to smooth labels.
    """
    if ":" in config.loss:
        if config.label_smoothing:
            raise ConfigError(
                f"train.label_smoothing is {config.label_smoothing} with the own loss {config.loss!r}.",
                "Set it to 0, and smooth inside your loss.",
            )
        return load_object(config.loss, purpose="train.loss")
    automatic = "binary_cross_entropy" if multi_label else "cross_entropy"
    name = automatic if config.loss == "auto" else config.loss
    if name not in NAMED:
        raise ConfigError(
            f"train.loss is {config.loss!r}; auto, {', '.join(NAMED)} or module:function is allowed.",
            "Choose one of these.",
        )
    return partial(NAMED[name], smoothing=config.label_smoothing)
