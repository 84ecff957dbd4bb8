"""A factor on the loss that keeps small gradients of float16 from vanishing."""

from __future__ import annotations

import keras
import tensorflow as tf


class LossScale:
    """Dynamic loss scale for float16: halved at an overflow, doubled after 2,000 good steps.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    def __init__(self, initial: float) -> None:
        """Start at ``initial``; 1 for formats with the exponent range of float32."""
        self.dynamic = initial != 1.0
        self.scale = keras.Variable(initial, trainable=False, name="loss_scale", dtype="float32")
        self.good_steps = keras.Variable(0, trainable=False, name="good_steps", dtype="int32")

    def record(self, finite: tf.Tensor) -> None:
        """Adapt the scale to whether this step's gradient was finite."""
        grow = finite & (self.good_steps.value >= 1999)
        scale = self.scale.value
        self.scale.assign(tf.where(finite, tf.where(grow, scale * 2, scale), tf.maximum(scale / 2, 1.0)))
        self.good_steps.assign(tf.where(finite & ~grow, self.good_steps.value + 1, 0))
