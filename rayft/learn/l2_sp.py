"""Decay towards the pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from rayft.learn.optimizer import Updater


class L2Sp:
    """The penalty alpha/2 |w - w0|^2 over pretrained weights plus beta/2 |w|^2 over new ones.

    Source: Li, Grandvalet and Davoine 2018, arXiv:1802.01483, equation 4.
    """

    def __init__(
        self,
        updater: Updater,
        strengths: Sequence[float],
        pretrained: Sequence[bool],
        initial: np.ndarray | None = None,
    ) -> None:
        """Take the weights that the updater holds now for the pretrained ones, unless others are given.

        Args:
            updater: Holds the trainable weights.
            strengths: alpha or beta of each variable.
            pretrained: Whether the variable is pulled to its pretrained value, else to zero.
            initial: The pretrained values float [n], in the updater's order.
        """
        self._updater = updater
        self._strength = updater.spread(strengths)
        start = tf.identity(updater.weights()) if initial is None else tf.constant(initial, updater.weights().dtype)
        self._target = start * updater.spread([float(value) for value in pretrained])
        self._compute = tf.function(self._penalty_and_gradient, autograph=False, jit_compile=True)

    def add(self, gradient: tf.Tensor, loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Add gradient and value of the penalty to those of the loss, which are summed over replicas already.

        Args:
            gradient: float [n], in the updater's order.
            loss: Scalar.
        """
        penalty, pull = self._compute(self._updater.weights())
        return gradient + pull, loss + tf.cast(penalty, loss.dtype)

    def _penalty_and_gradient(self, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pull = self._strength * (weights - self._target)
        return 0.5 * tf.reduce_sum(pull * (weights - self._target)), pull
