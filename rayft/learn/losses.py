"""Losses of one example each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import tensorflow as tf

from rayft.config import TrainConfig
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


NAMED = {"cross_entropy": cross_entropy, "focal": focal}


def get_loss(config: TrainConfig) -> Loss:
    """Return the loss that the config names: (labels, logits [b, classes]) -> float [b].

    Labels are int32 [b], or float32 [b, classes] with MixUp or CutMix.

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
    if config.loss not in NAMED:
        raise ConfigError(
            f"train.loss is {config.loss!r}; {', '.join(NAMED)} or module:function is allowed.",
            "Choose one of these.",
        )
    return partial(NAMED[config.loss], smoothing=config.label_smoothing)
