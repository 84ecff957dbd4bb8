"""Random rectangles of a given range of areas and aspects."""

from __future__ import annotations

import math

import tensorflow as tf

_TRIES = 10

Range = tuple[float, float]


def random_box(
    key: tf.Tensor, height: tf.Tensor, width: tf.Tensor, scale: Range, ratio: Range
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw a rectangle that fits; the first of ten tries, all drawn at once.

    Source: Szegedy et al. 2014, arXiv:1409.4842, section 6; the ten tries are torchvision's.

    Args:
        key: Seed [2].
        height: Of the picture, int32 [].
        width: Of the picture, int32 [].
        scale: Smallest and largest part of the area; uniform.
        ratio: Smallest and largest width / height; uniform in the logarithm.

    Returns:
        int32 [4]: top, left, height, width; bool []: whether any of the tries fits.
    """
    draws = tf.random.stateless_uniform([4, _TRIES], key, alg="philox")
    area = tf.cast(height * width, tf.float32) * (scale[0] + (scale[1] - scale[0]) * draws[0])
    aspect = tf.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[1])
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    box_height, box_width = heights[first], widths[first]
    top = tf.cast(draws[2, first] * tf.cast(height - box_height + 1, tf.float32), tf.int32)
    left = tf.cast(draws[3, first] * tf.cast(width - box_width + 1, tf.float32), tf.int32)
    # A product rounded up would be one too large.
    top, left = tf.minimum(top, height - box_height), tf.minimum(left, width - box_width)
    return tf.stack([top, left, box_height, box_width]), tf.reduce_any(fits)


def resized_crop_box(key: tf.Tensor, height: tf.Tensor, width: tf.Tensor, scale: Range, ratio: Range) -> tf.Tensor:
    """Draw the rectangle of a random resized crop: top, left, height, width, int32 [4].

    Where no try fits, the largest rectangle in the middle whose aspect is allowed. Arguments as of ``random_box``.
    """
    box, fits = random_box(key, height, width, scale, ratio)
    h, w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    middle_height = tf.minimum(tf.cast(tf.round(w / ratio[0]), tf.int32), height)
    middle_width = tf.minimum(tf.cast(tf.round(h * ratio[1]), tf.int32), width)
    middle = tf.stack(
        [(height - middle_height) // 2, (width - middle_width) // 2, middle_height, middle_width],
    )
    return tf.where(fits, box, middle)
