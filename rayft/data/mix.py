"""MixUp and CutMix: each picture of a global batch with its neighbour in the batch.

Positions 2i and 2i+1 of a global batch are partners; the order of examples is a random permutation by (seed,
epoch), so neighbours are random pairs. The partner is thus a pure function of (seed, step), and a rank needs at
most one picture at each end of its slice besides its own.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.config import AugmentConfig


def with_partners(positions: np.ndarray, global_batch_size: int) -> np.ndarray:
    """Append to positions [b] of a global batch the partners that are not among them, int64 [>= b]."""
    partners = positions[positions < global_batch_size] ^ 1
    missing = np.setdiff1d(partners[partners < global_batch_size], positions)
    return np.concatenate([positions, missing])


def partner_indices(positions: np.ndarray, batch_size: int) -> np.ndarray:
    """Return where in ``positions`` the partner of each lies.

    The last example of a batch of odd size has none, nor has padding: each is its own.

    Args:
        positions: int64 [n] in a global batch; from ``batch_size`` on they are padding.
        batch_size: Real examples of the batch.

    Returns:
        int32 [n]; positions whose partner is not among them are their own as well.
    """
    own, partners = np.arange(len(positions)), positions ^ 1
    order = np.argsort(positions, kind="stable")
    found = order[np.minimum(np.searchsorted(positions[order], partners), len(positions) - 1)]
    mixes = (positions < batch_size) & (partners < batch_size) & (positions[found] == partners)
    return np.where(mixes, found, own).astype(np.int32)


def draw_mix(key: tf.Tensor, image_size: tuple[int, int], config: AugmentConfig) -> tf.Tensor:
    """Draw how one picture is mixed with its partner.

    Sources: MixUp, Zhang et al. 2017, arXiv:1710.09412: the picture's part is Beta(alpha, alpha). CutMix, Yun et
    al. 2019, arXiv:1905.04899, algorithm 1: a box of the partner, cut off at the borders.

    Args:
        key: Seed [2].
        image_size: Height and width.
        config: Alphas and probabilities.

    Returns:
        float32 [6]: part of the picture in the pixels, part in the target; top, bottom, left, right of the
        partner's box, in pixels.
    """
    height, width = image_size
    draws = tf.random.stateless_uniform([4], tf.random.fold_in(key, 0, alg="philox"), alg="philox")
    cuts = bool(config.cutmix) & (not config.mixup or draws[0] < config.switch_probability)
    alpha = tf.where(cuts, config.cutmix or 1.0, config.mixup or 1.0)
    # float64, because the draws of a small alpha underflow in float32.
    gammas = tf.random.stateless_gamma(
        [2], tf.random.fold_in(key, 1, alg="philox"), tf.cast(alpha, tf.float64), dtype=tf.float64
    )
    part = tf.cast(tf.math.divide_no_nan(gammas[0], gammas[0] + gammas[1]), tf.float32)
    part = tf.where(draws[1] < config.mix_probability, part, 1.0)
    half = tf.floor(tf.sqrt(1.0 - part) * tf.constant([height, width], tf.float32)) / 2
    sides = tf.constant([height, width], tf.float32)
    middle = tf.floor(draws[2:] * sides)
    low = tf.clip_by_value(tf.floor(middle - half), 0.0, sides)
    high = tf.clip_by_value(tf.floor(middle + half), 0.0, sides)
    box = tf.stack([low[0], high[0], low[1], high[1]])
    kept = 1.0 - (high[0] - low[0]) * (high[1] - low[1]) / float(height * width)
    return tf.where(cuts, tf.concat([[1.0, kept], box], 0), tf.concat([[part, part], tf.zeros([4])], 0))


def mix_batch(
    images: tf.Tensor, labels: tf.Tensor, mix: tf.Tensor, partner: tf.Tensor, keep: int, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix this rank's pictures and targets with those of their partners.

    Args:
        images: float32 [m, H, W, C]: this rank's own, then the partners they lack.
        labels: int [m] classes, or float [m, classes] targets.
        mix: float32 [m, 6], of ``draw_mix``.
        partner: int32 [m], index of each partner.
        keep: This rank's own pictures, b.
        classes: Number of classes.

    Returns:
        float32 [b, H, W, C] pictures and float32 [b, classes] targets.
    """
    targets = tf.one_hot(labels, classes) if labels.shape.rank == 1 else tf.cast(labels, tf.float32)
    partner, mix = partner[:keep], mix[:keep]
    alone = partner == tf.range(keep)
    pixel_part = tf.where(alone, 1.0, mix[:, 0])[:, None, None, None]
    target_part = tf.where(alone, 1.0, mix[:, 1])[:, None]
    top, bottom, left, right = (mix[:, column, None] for column in range(2, 6))
    y, x = (tf.range(side, dtype=tf.float32)[None] for side in images.shape[1:3])
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    weight = tf.where(inside[..., None], 0.0, pixel_part)
    mixed = images[:keep] * weight + tf.gather(images, partner) * (1.0 - weight)
    return mixed, targets[:keep] * target_part + tf.gather(targets, partner) * (1.0 - target_part)
