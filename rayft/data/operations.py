"""The operations of augmentation policies, as functions of picture, level and sign.

Ranges: Cubuk et al. 2018, arXiv:1805.09501, table 6. Pixel operations follow Pillow, by which the papers define
them; places that a geometric operation uncovers are grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from rayft.data.picture import LUMA

# (image float32 [H, W, C] in 0..255, level 0..1, sign -1 or 1) -> the same shape and range.
Operation = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]

_GREY = 128.0
# Pillow's SMOOTH filter.
_SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))


def autocontrast(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Stretch each channel over the full range; a constant channel stays."""
    low = tf.reduce_min(image, axis=[0, 1])
    spread = tf.reduce_max(image, axis=[0, 1]) - low
    stretched = (image - low) * tf.math.divide_no_nan(255.0, spread)
    return tf.where(spread > 0, stretched, image)


def equalize(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Flatten the histogram of each channel."""
    channels = image.shape[-1]
    values = tf.transpose(tf.reshape(_whole(image), [-1, channels]))
    counts = tf.math.bincount(values, minlength=256, maxlength=256, axis=-1)
    # Pillow leaves the brightest value out of the step.
    last = tf.gather(counts, tf.reduce_max(values, axis=1), batch_dims=1)
    step = ((tf.reduce_sum(counts, axis=1) - last) // 255)[:, None]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    flat = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, flat, tf.range(256)[None])
    mapped = tf.gather(table, values, batch_dims=1)
    return tf.cast(tf.reshape(tf.transpose(mapped), image.shape), tf.float32)


def rotate(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Turn about the centre by up to 30 degrees."""
    angle = sign * level * (30.0 * math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    middle_x, middle_y = (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2
    shift_x = middle_x - cosine * middle_x + sine * middle_y
    shift_y = middle_y - sine * middle_x - cosine * middle_y
    return _warp(image, [cosine, -sine, shift_x, sine, cosine, shift_y])


def shear_x(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Shift rows by up to 0.3 of their number."""
    return _warp(image, [1.0, sign * level * 0.3, 0.0, 0.0, 1.0, 0.0])


def shear_y(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Shift columns by up to 0.3 of their number."""
    return _warp(image, [1.0, 0.0, 0.0, sign * level * 0.3, 1.0, 0.0])


def translate_x(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Move sidewards by up to 0.45 of the width."""
    return _warp(image, [1.0, 0.0, sign * level * 0.45 * image.shape[1], 0.0, 1.0, 0.0])


def translate_y(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Move up or down by up to 0.45 of the height."""
    return _warp(image, [1.0, 0.0, 0.0, 0.0, 1.0, sign * level * 0.45 * image.shape[0]])


def posterize(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Keep the upper 8 to 4 bits."""
    step = tf.pow(2.0, tf.round(level * 4.0))
    return tf.floor(tf.round(image) / step) * step


def solarize(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Invert what is as bright as a threshold, 256 down to 0."""
    return tf.where(tf.round(image) < 256.0 * (1.0 - level), image, 255.0 - image)


def colour(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Scale the distance from the pixel's own grey by 0.1 to 1.9."""
    return _blend(_luma(image), image, level, sign)


def contrast(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Scale the distance from the picture's mean grey by 0.1 to 1.9."""
    grey = image if image.shape[-1] == 1 else _luma(image)
    return _blend(tf.reduce_mean(grey), image, level, sign)


def brightness(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Scale all values by 0.1 to 1.9."""
    return _blend(tf.constant(0.0), image, level, sign)


def sharpness(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Scale the distance from the smoothed picture by 0.1 to 1.9; the outermost pixels stay."""
    channels = image.shape[-1]
    kernel = tf.tile(tf.constant(_SMOOTH)[:, :, None, None] / 13.0, [1, 1, channels, 1])
    inner = tf.nn.depthwise_conv2d(image[None], kernel, [1, 1, 1, 1], "VALID")[0]
    edge = [[1, 1], [1, 1], [0, 0]]
    smooth = tf.where(tf.pad(tf.ones_like(inner, tf.bool), edge), tf.pad(inner, edge), image)
    return _blend(smooth, image, level, sign)


def identity(image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    """Change nothing."""
    return image


# Cubuk et al. 2019, arXiv:1909.13719, figure 2; the order is part of what a seed means.
RANDAUGMENT: tuple[Operation, ...] = (
    identity,
    autocontrast,
    equalize,
    rotate,
    solarize,
    colour,
    posterize,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
# Hendrycks et al. 2019, arXiv:1912.02781, section 3: nothing that resembles the corruptions of ImageNet-C.
AUGMIX: tuple[Operation, ...] = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)


def _whole(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(image), 0.0, 255.0), tf.int32)


def _luma(image: tf.Tensor) -> tf.Tensor:
    return tf.tensordot(image, tf.constant(LUMA)[:, None], axes=1)


def _blend(base: tf.Tensor, image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(base + (image - base) * (1.0 + sign * level * 0.9), 0.0, 255.0)


def _warp(image: tf.Tensor, matrix: list[tf.Tensor | float]) -> tf.Tensor:
    """Fetch each pixel (x, y) of the result from (a x + b y + c, d x + e y + f); bilinear."""
    transform = tf.stack([*(tf.cast(value, tf.float32) for value in matrix), 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=image.shape[:2],
        fill_value=_GREY,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]
