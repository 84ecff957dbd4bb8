"""The learning rate of each step."""

from __future__ import annotations

import math

import tensorflow as tf

from rayft.config import OptimConfig


def learning_rate(config: OptimConfig, step: tf.Tensor, total_steps: int) -> tf.Tensor:
    """Return the rate of one step: linear warm-up, then constant or half a cosine down to zero.

    With w warm-up steps, step i < w has peak * (i + 1) / w; later steps of the cosine have
    peak * (1 + cos(pi * (i - w) / (total - w))) / 2 (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Args:
        config: Peak, schedule and warm-up.
        step: int64 [], steps done before this one.
        total_steps: Steps of the whole run.
    """
    warmup_steps = round(config.warmup_fraction * total_steps)
    done = tf.cast(step, tf.float32)
    warm = (done + 1) / max(warmup_steps, 1)
    progress = (done - warmup_steps) / max(total_steps - warmup_steps, 1)
    after = 0.5 * (1 + tf.cos(math.pi * progress)) if config.schedule == "cosine" else tf.ones_like(done)
    return config.learning_rate * tf.where(done < warmup_steps, warm, after)
