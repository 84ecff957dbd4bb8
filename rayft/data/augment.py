"""Random changes of a training picture, each a pure function of the picture's seed."""

from __future__ import annotations

import math

import tensorflow as tf

from rayft.config import AugmentConfig
from rayft.data.picture import LUMA
from rayft.errors import ConfigError

# A constant per operation, so that switching one on does not change the draws of another.
_OPERATIONS = {
    "horizontal_flip": 1,
    "vertical_flip": 2,
    "crop": 3,
    "rotate": 4,
    "brightness": 5,
    "contrast": 6,
    "saturation": 7,
    "hue": 8,
}


def augment(image: tf.Tensor, seed: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """Change a picture at random; the same seed gives bit-equal pixels in any batch on any worker.

    Args:
        image: float32 [H, W, C] in 0..255, H, W and C static.
        seed: int32 or int64 [2] or [3]: run seed, epoch, example.
        config: Strengths; an operation of strength 0 costs nothing.

    Returns:
        float32 [H, W, C] in 0..255.

    Raises:
        ConfigError: Saturation or hue of pictures with one channel.
    """
    if image.shape[-1] == 1 and (config.saturation or config.hue):
        raise ConfigError(
            f"data.augment has saturation {config.saturation} and hue {config.hue}, but data.channels is 1.",
            "Set both to 0, or data.channels to 3.",
        )
    key = seed[:2]
    if seed.shape[0] == 3:
        key = tf.random.fold_in(key, seed[2], alg="philox")

    def draw(operation: str, count: int = 1) -> tf.Tensor:
        own_key = tf.random.fold_in(key, _OPERATIONS[operation], alg="philox")
        return tf.random.stateless_uniform([count], own_key, alg="philox")

    if config.horizontal_flip:
        image = _mirror(image, draw("horizontal_flip")[0] < 0.5, axis=1)
    if config.vertical_flip:
        image = _mirror(image, draw("vertical_flip")[0] < 0.5, axis=0)
    if config.crop:
        image = crop(image, draw("crop", 4), config.crop)
    if config.rotate:
        image = rotate(image, _symmetric(draw("rotate")[0], config.rotate) * (math.pi / 180))
    if config.brightness:
        image = image + _symmetric(draw("brightness")[0], config.brightness) * 255.0
    if config.contrast:
        image = scale_contrast(image, 1.0 + _symmetric(draw("contrast")[0], config.contrast))
    if config.saturation:
        image = scale_saturation(image, 1.0 + _symmetric(draw("saturation")[0], config.saturation))
    # Flips, crops and rotations keep the range, and a clip costs a tenth of decoding.
    if config.brightness or config.contrast or config.saturation:
        image = tf.clip_by_value(image, 0.0, 255.0)
    if config.hue:
        # Hue has no meaning for negative values, hence the clip before; a turn keeps the range.
        image = tf.image.adjust_hue(image, _symmetric(draw("hue")[0], config.hue))
    return image


def crop(image: tf.Tensor, draws: tf.Tensor, largest_cut: float) -> tf.Tensor:
    """Cut away a random part of each side, then stretch the rest back over the picture.

    Args:
        image: float32 [H, W, C].
        draws: float32 [4] in 0..1: cut of height and of width, place of the top and of the left.
        largest_cut: Part of a side that the largest draw cuts away.
    """
    cut = draws[:2] * largest_cut
    start = draws[2:] * cut
    box = tf.concat([start, start + 1.0 - cut], axis=0)
    height, width = image.shape[0], image.shape[1]
    return tf.image.crop_and_resize(image[None], box[None], [0], [height, width])[0]


def rotate(image: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Turn counter-clockwise about the centre by an angle in radians; bilinear, edges mirrored."""
    height, width = float(image.shape[0]), float(image.shape[1])
    cosine, sine = tf.cos(angle), tf.sin(angle)
    # The matrix leads from output to input pixels: the reverse turn, about the centre.
    shift_x = (width - 1 - (cosine * (width - 1) - sine * (height - 1))) / 2
    shift_y = (height - 1 - (sine * (width - 1) + cosine * (height - 1))) / 2
    transform = tf.stack([cosine, -sine, shift_x, sine, cosine, shift_y, 0.0, 0.0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=image.shape[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]


def scale_contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scale the distance of each channel from its mean over the picture."""
    mean = tf.reduce_mean(image, axis=[0, 1], keepdims=True)
    return mean + (image - mean) * factor


def scale_saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scale the distance of each pixel from its own grey (luma, ITU-R BT.601)."""
    to_grey = tf.repeat(tf.constant(LUMA)[:, None], 3, axis=1)
    # One small matrix product; a sum over an axis of length 3 costs four times as much.
    return tf.tensordot(image, to_grey * (1.0 - factor) + tf.eye(3) * factor, axes=1)


def _mirror(image: tf.Tensor, chosen: tf.Tensor, axis: int) -> tf.Tensor:
    # The kernel of reverse takes a third of the time of a slice with step -1.
    return tf.cond(chosen, lambda: tf.reverse(image, [axis]), lambda: image)


def _symmetric(uniform: tf.Tensor, largest: float) -> tf.Tensor:
    """Spread a draw from [0, 1) over [-largest, largest)."""
    return (uniform * 2.0 - 1.0) * largest
