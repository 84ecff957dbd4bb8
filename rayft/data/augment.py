"""Random changes of a training picture, each a pure function of the picture's seed."""

from __future__ import annotations

import math

import tensorflow as tf

from rayft.config import AugmentConfig
from rayft.data.boxes import DRAWS_OF_BOX, random_box, resized_crop_box
from rayft.data.draws import draw_example, operation_key, split_draws
from rayft.data.own_layers import apply_layers
from rayft.data.picture import LUMA, ChooseBox, decode_picture
from rayft.data.policy import augmix, randaugment
from rayft.errors import ConfigError

# Zhong et al. 2017, arXiv:1708.04896, section 3: part of the area that is erased, and aspect of the rectangle.
_ERASED_SCALE = (0.02, 0.4)
_ERASED_RATIO = (0.3, 1 / 0.3)


def box_chooser(draws: dict[str, tf.Tensor], config: AugmentConfig) -> ChooseBox | None:
    """Return what cuts the random resized crop of a picture, while it is decoded; None without it."""
    crop_range = config.random_resized_crop
    if crop_range is None:
        return None
    return lambda size: resized_crop_box(draws["random_resized_crop"], size, crop_range.scale, crop_range.ratio)


def decode_training_picture(
    example: dict[str, tf.Tensor], image_size: tuple[int, int], channels: int, config: AugmentConfig
) -> tf.Tensor:
    """Decode a picture and change it at random, all but mixing; float32 [H, W, C] in 0..255.

    Args:
        example: The fields of ``INPUT`` and of ``draw_specs``, which are taken out of it.
        image_size: Height and width of the result.
        channels: 1 or 3.
        config: What is changed.
    """
    encoded, orientation, seed = (example.pop(name) for name in ("encoded", "orientation", "seed"))
    draws = split_draws(example.pop("drawn", None), config)
    image = decode_picture(encoded, image_size, channels, box_chooser(draws, config), orientation)
    return change(tf.ensure_shape(image, [*image_size, channels]), seed, draws, config)


def augment(image: tf.Tensor, seed: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """Change a picture at random; the same seed gives bit-equal pixels in any batch on any worker.

    All but ``random_resized_crop``, which ``box_chooser`` cuts, and mixing (``rayft.data.mix``).

    Args:
        image: float32 [H, W, C] in 0..255, H, W and C static.
        seed: int32 or int64 [2] or [3]: run seed, epoch, example.
        config: Strengths; an operation of strength 0 costs nothing.

    Returns:
        float32 [H, W, C] in 0..255.

    Raises:
        ConfigError: Saturation or hue of pictures with one channel, or a layer that is refused.
    """
    return change(image, seed, split_draws(draw_example(seed, config), config), config)


def change(image: tf.Tensor, seed: tf.Tensor, draws: dict[str, tf.Tensor], config: AugmentConfig) -> tf.Tensor:
    """Do what ``augment`` does, with numbers that were drawn before, of ``split_draws``."""
    if image.shape[-1] == 1 and (config.saturation or config.hue):
        raise ConfigError(
            f"data.augment has saturation {config.saturation} and hue {config.hue}, but data.channels is 1.",
            "Set both to 0, or data.channels to 3.",
        )
    if config.horizontal_flip:
        image = _mirror(image, draws["horizontal_flip"] < 0.5, axis=1)
    if config.vertical_flip:
        image = _mirror(image, draws["vertical_flip"] < 0.5, axis=0)
    if config.crop:
        image = crop(image, draws["crop"], config.crop)
    if config.rotate:
        image = rotate(image, _symmetric(draws["rotate"], config.rotate) * (math.pi / 180))
    if config.brightness:
        image = image + _symmetric(draws["brightness"], config.brightness) * 255.0
    if config.contrast:
        image = scale_contrast(image, 1.0 + _symmetric(draws["contrast"], config.contrast))
    if config.saturation:
        image = scale_saturation(image, 1.0 + _symmetric(draws["saturation"], config.saturation))
    # Flips, crops and rotations keep the range, and a clip costs a tenth of decoding.
    if config.brightness or config.contrast or config.saturation:
        image = tf.clip_by_value(image, 0.0, 255.0)
    if config.hue:
        # Hue has no meaning for negative values, hence the clip before; a turn keeps the range.
        image = tf.image.adjust_hue(image, _symmetric(draws["hue"], config.hue))
    if config.policy == "randaugment":
        image = randaugment(image, operation_key(seed, "policy"), config.num_ops, config.magnitude)
    if config.augmix is not None:
        image = augmix(image, operation_key(seed, "augmix"), config.augmix)
    if config.layers:
        image = apply_layers(image, operation_key(seed, "layers"), config.layers)
    if config.random_erasing:
        keys = operation_key(seed, "erased_box"), operation_key(seed, "noise")
        chosen = draws["random_erasing"] < config.random_erasing
        image = tf.cond(chosen, lambda: erase(image, *keys), lambda: image)
    return image


def erase(image: tf.Tensor, box_key: tf.Tensor, noise_key: tf.Tensor) -> tf.Tensor:
    """Cover a random rectangle with noise.

    Source: Zhong et al. 2017, arXiv:1708.04896, algorithm 1, with random values (RE-R).

    Args:
        image: float32 [H, W, C].
        box_key: Seed [2] of the rectangle.
        noise_key: Seed [2] of its pixels.
    """
    height, width = image.shape[0], image.shape[1]
    draws = tf.random.stateless_uniform([DRAWS_OF_BOX], box_key, alg="philox")
    box, fits = random_box(draws, tf.constant([height, width]), _ERASED_SCALE, _ERASED_RATIO)
    y, x = tf.range(height)[:, None, None], tf.range(width)[None, :, None]
    inside = (y >= box[0]) & (y < box[0] + box[2]) & (x >= box[1]) & (x < box[1] + box[3])
    noise = tf.random.stateless_uniform(image.shape, noise_key, 0.0, 255.0, alg="philox")
    return tf.where(fits & inside, noise, image)


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
    # Its kernel takes a sixth of the time of a mean over two axes and two passes.
    return tf.raw_ops.AdjustContrastv2(images=image[None], contrast_factor=factor)[0]


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
