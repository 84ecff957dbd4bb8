"""Augmentation policies: operations drawn at random for each picture."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rayft.config import AugMixConfig
from rayft.data.operations import AUGMIX, RANDAUGMENT, Operation, colour

_WIDEST = 10.0
_LONGEST_CHAIN = 3


def randaugment(image: tf.Tensor, key: tf.Tensor, num_ops: int, magnitude: float) -> tf.Tensor:
    """Apply operations drawn with equal chances, all at one strength.

    Source: Cubuk et al. 2019, arXiv:1909.13719.

    Args:
        image: float32 [H, W, C] in 0..255; of one channel, the operation on colour is left out.
        key: Seed [2].
        num_ops: Operations drawn, with replacement.
        magnitude: 0 to 10.
    """
    operations = tuple(each for each in RANDAUGMENT if image.shape[-1] == 3 or each is not colour)
    level = tf.constant(magnitude / _WIDEST)
    return _chain(image, key, operations, tf.constant(num_ops), lambda draw: level)


def augmix(image: tf.Tensor, key: tf.Tensor, config: AugMixConfig) -> tf.Tensor:
    """Average chains of operations with random weights, then average that with the picture.

    Source: Hendrycks et al. 2019, arXiv:1912.02781, algorithm 1; without its consistency loss.

    Args:
        image: float32 [H, W, C] in 0..255.
        key: Seed [2].
        config: Strength, number and length of the chains.
    """
    gammas = tf.random.stateless_gamma([config.width + 2], _fold(key, 0), config.alpha, dtype=tf.float64)
    weights = tf.cast(_normalised(gammas[: config.width]), tf.float32)
    mixed_part = tf.cast(_normalised(gammas[config.width :])[0], tf.float32)
    depths = tf.random.stateless_uniform([config.width], _fold(key, 1), 1, _LONGEST_CHAIN + 1, tf.int32, alg="philox")

    def add_chain(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        depth = tf.constant(config.depth) if config.depth else depths[index]
        chain = _chain(image, _fold(key, 2 + index), AUGMIX, depth, lambda draw: draw * (config.severity / _WIDEST))
        return index + 1, total + weights[index] * chain

    start = (tf.constant(0), tf.zeros_like(image))
    _, mixed = tf.while_loop(lambda index, total: index < config.width, add_chain, start, parallel_iterations=1)
    return image + mixed_part * (mixed - image)


def _chain(
    image: tf.Tensor,
    key: tf.Tensor,
    operations: tuple[Operation, ...],
    length: tf.Tensor,
    level_of: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Apply ``length`` random operations one after the other; a loop, so that each is traced once."""

    def apply(index: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draws = tf.random.stateless_uniform([3], _fold(key, index), alg="philox")
        chosen = tf.cast(draws[0] * len(operations), tf.int32)
        level, sign = level_of(draws[1]), tf.where(draws[2] < 0.5, -1.0, 1.0)
        branches = [lambda operation=operation: operation(image, level, sign) for operation in operations]
        return index + 1, tf.ensure_shape(tf.switch_case(chosen, branches), image.shape)

    start = (tf.constant(0), image)
    return tf.while_loop(lambda index, image: index < length, apply, start, parallel_iterations=1)[1]


def _fold(key: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    return tf.random.fold_in(key, number, alg="philox")


def _normalised(gammas: tf.Tensor) -> tf.Tensor:
    """Turn gamma draws [k] into a Dirichlet draw; equal parts where all were too small for the format."""
    total = tf.reduce_sum(gammas)
    return tf.where(total > 0, tf.math.divide_no_nan(gammas, total), tf.ones_like(gammas) / gammas.shape[0])
