"""Random rectangles of a given range of areas and aspects."""

from __future__ import annotations

import math

import tensorflow as tf

_TRIES = 10
DRAWS_OF_BOX = 4 * _TRIES

Range = tuple[float, float]


def random_box(draws: tf.Tensor, size: tf.Tensor, scale: Range, ratio: Range) -> tuple[tf.Tensor, tf.Tensor]:
    """Choose a rectangle that fits; the first of ten tries, all looked at together.

    Source: Szegedy et al. 2014, arXiv:1409.4842, section 6; the ten tries are torchvision's.

    Args:
        draws: float32 [DRAWS_OF_BOX] in [0, 1).
        size: Of the picture, int32 [2]: height, width.
        scale: Smallest and largest part of the area; uniform.
        ratio: Smallest and largest width / height; uniform in the logarithm.

    Returns:
        int32 [4]: top, left, height, width; bool []: whether any of the tries fits.
    """
    # Few operations on vectors: for a number each they would take as long as a tenth of decoding.
    areas, aspects, *places = tf.unstack(tf.reshape(draws, [4, _TRIES]))
    area = tf.cast(tf.reduce_prod(size), tf.float32) * (scale[0] + (scale[1] - scale[0]) * areas)
    aspect = tf.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * aspects)
    tries = tf.cast(tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], axis=1))), tf.int32)
    fits = tf.reduce_all((tries > 0) & (tries <= size), axis=1)
    first = tf.argmax(tf.cast(fits, tf.int32))
    sides, place = tf.gather(tries, first), tf.gather(tf.stack(places, axis=1), first)
    room = size - sides
    # A product rounded up would be one too large.
    start = tf.minimum(tf.cast(place * tf.cast(room + 1, tf.float32), tf.int32), room)
    return tf.concat([start, sides], 0), tf.reduce_any(fits)


def resized_crop_box(draws: tf.Tensor, size: tf.Tensor, scale: Range, ratio: Range) -> tf.Tensor:
    """Choose the rectangle of a random resized crop: top, left, height, width, int32 [4].

    Where no try fits, the largest rectangle in the middle whose aspect is allowed. Arguments as of ``random_box``.
    """
    box, fits = random_box(draws, size, scale, ratio)
    height, width = tf.unstack(tf.cast(size, tf.float32))
    sides = tf.minimum(tf.cast(tf.round(tf.stack([width / ratio[0], height * ratio[1]])), tf.int32), size)
    return tf.where(fits, box, tf.concat([(size - sides) // 2, sides], 0))
