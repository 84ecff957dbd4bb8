"""The learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from rayft.config import OptimConfig
from rayft.config.train import ScheduleConfig

# Maps progress after warm-up, float [] in [0, 1), to the part of the peak rate.
Shape = Callable[[tf.Tensor, ScheduleConfig], tf.Tensor]


def learning_rate(
    config: OptimConfig,
    step: tf.Tensor,
    total_steps: int,
    plateau_factor: tf.Tensor | float = 1.0,
    peak: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the rate of one step: linear warm-up to where the schedule begins, then the schedule.

    With w warm-up steps, step i < w has peak * shape(0) * (i + 1) / w, and a later one
    peak * shape((i - w) / (total - w)); see ``SHAPES``.

    Args:
        config: Peak, schedule and warm-up.
        step: int64 [], steps done before this one.
        total_steps: Steps of the whole run.
        plateau_factor: What drops on the validation metric have left of the rate; for the schedule plateau.
        peak: float32 [], in the place of the config's rate.
    """
    warmup_steps = round(config.warmup_fraction * total_steps)
    shape, options = SHAPES[config.schedule], config.schedule_options
    done = tf.cast(step, tf.float32)
    warm = shape(tf.zeros_like(done), options) * (done + 1) / max(warmup_steps, 1)
    progress = (done - warmup_steps) / max(total_steps - warmup_steps, 1)
    rate = (config.learning_rate if peak is None else peak) * tf.where(
        done < warmup_steps, warm, shape(progress, options)
    )
    return rate * tf.cast(plateau_factor, rate.dtype) if config.schedule == "plateau" else rate


def _constant(progress: tf.Tensor, options: ScheduleConfig) -> tf.Tensor:
    return tf.ones_like(progress)


def _cosine(progress: tf.Tensor, options: ScheduleConfig) -> tf.Tensor:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    return _half_cosine(progress)


def _linear(progress: tf.Tensor, options: ScheduleConfig) -> tf.Tensor:
    return 1 - progress


def _step(progress: tf.Tensor, options: ScheduleConfig) -> tf.Tensor:
    """Gamma to the power of the milestones passed."""
    passed = tf.reduce_sum(tf.cast(progress >= tf.constant(options.milestones, progress.dtype), progress.dtype))
    return tf.pow(tf.constant(options.gamma, progress.dtype), passed)


def _exponential(progress: tf.Tensor, options: ScheduleConfig) -> tf.Tensor:
    """Gamma to the power of the progress."""
    return tf.pow(tf.constant(options.gamma, progress.dtype), progress)


def _one_cycle(progress: tf.Tensor, options: ScheduleConfig) -> tf.Tensor:
    """Up to the peak and down to almost nothing, each half a cosine (Smith and Topin 2018, arXiv:1708.07120).

    The rate alone is cycled, not the momentum.
    """
    start = 1 / options.div_factor
    end = start / options.final_div_factor
    rise = options.rise_fraction
    up = 1 + (start - 1) * _half_cosine(progress / rise)
    down = end + (1 - end) * _half_cosine((progress - rise) / (1 - rise))
    return tf.where(progress < rise, up, down)


def _cosine_restarts(progress: tf.Tensor, options: ScheduleConfig) -> tf.Tensor:
    """Cosines one after the other, each ``cycle_growth`` times as long (SGDR; arXiv:1608.03983)."""
    lengths = [options.cycle_growth**index for index in range(options.cycles)]
    starts = tf.constant([sum(lengths[:index]) / sum(lengths) for index in range(options.cycles)], progress.dtype)
    parts = tf.constant([length / sum(lengths) for length in lengths], progress.dtype)
    # During warm-up, where its value is not used, the progress is negative.
    current = tf.maximum(tf.reduce_sum(tf.cast(progress >= starts, tf.int32)) - 1, 0)
    return _half_cosine((progress - tf.gather(starts, current)) / tf.gather(parts, current))


def _half_cosine(progress: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1 + tf.cos(math.pi * progress))


SHAPES: dict[str, Shape] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "exponential": _exponential,
    "one_cycle": _one_cycle,
    "cosine_restarts": _cosine_restarts,
    "plateau": _constant,
}
