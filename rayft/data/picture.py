"""From the encoded bytes of a picture to pixels of a fixed size.

Training, evaluation and the Predictor all call ``decode_picture``, so they see the same pixels.
Everything runs in TensorFlow's C++ kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rayft.data.exif import find_orientation

# Height and width of the upright picture, [2] -> top, left, height, width of the part to keep, [4]; int32.
ChooseBox = Callable[[tf.Tensor], tf.Tensor]

# ITU-R BT.601 luma.
LUMA = (0.299, 0.587, 0.114)


def decode_picture(
    encoded: tf.Tensor,
    image_size: tuple[int, int],
    channels: int,
    choose_box: ChooseBox | None = None,
    orientation: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decode a JPEG, PNG, GIF (first frame), BMP or WebP picture; a pure function of the bytes.

    Transparency of PNG and WebP is composited over white; of BMP it is ignored, because most
    writers leave that byte undefined; transparent pixels of a GIF come out black, as TensorFlow's
    decoder drops the information. 16-bit PNGs keep their high byte. A JPEG is turned upright as
    its EXIF orientation says; EXIF in other formats is ignored.

    Args:
        encoded: string [], the content of the file.
        image_size: Height and width of the result; bilinear with antialiasing, aspect not kept.
        channels: 3, or 1 for luma.
        choose_box: Draws the part that is kept; the whole picture if not given. Of a JPEG, little more than
            that part is decoded.
        orientation: int32 [], of ``orientation_of``, where that was called before; else found in the graph.

    Returns:
        float32 [height, width, channels] in 0..255, up to rounding (1e-4) in the resize.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are not such a picture.
    """
    if orientation is None:
        orientation = find_orientation(encoded)
    pixels = _decode(encoded, orientation) if choose_box is None else _decode_part(encoded, orientation, choose_box)
    pixels.set_shape([None, None, 3])
    height, width = image_size
    # Turned after it is resized: fewer pixels to move, and of bytes TensorFlow's oneDNN transposes none, but logs an
    # error of it.
    size = image_size if height == width else tf.where(orientation >= 5, [width, height], [height, width])
    resized = tf.image.resize(pixels, size, method="bilinear", antialias=True)
    resized = tf.ensure_shape(_turn_upright(resized, orientation), [height, width, 3])
    if channels == 1:
        return tf.tensordot(resized, tf.constant(LUMA)[:, None], axes=1)
    return resized


def _decode(encoded: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Decode to uint8 [h, w, 3], as stored."""
    # The general decoder finds out by many small operations what is known of a JPEG.
    return tf.cond(orientation > 0, lambda: tf.io.decode_jpeg(encoded, channels=3), lambda: _decode_any(encoded))


def _decode_part(encoded: tf.Tensor, orientation: tf.Tensor, choose_box: ChooseBox) -> tf.Tensor:
    """Decode what a box in the upright picture asks for to uint8 [h, w, 3], as stored."""
    is_jpeg = orientation > 0
    whole = tf.cond(is_jpeg, lambda: tf.zeros([0, 0, 3], tf.uint8), lambda: _decode_any(encoded))
    stored = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(encoded), lambda: tf.shape(whole))[:2]
    box = choose_box(tf.cond(orientation >= 5, lambda: stored[::-1], lambda: stored))
    window = tf.cond(orientation > 1, lambda: _stored_window(box, stored, orientation), lambda: box)

    def cut() -> tf.Tensor:
        top, left, height, width = tf.unstack(window)
        return whole[top : top + height, left : left + width]

    return tf.cond(is_jpeg, lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels=3), cut)


def _stored_window(box: tf.Tensor, stored: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Return where a box of the upright picture lies in the picture as it is stored, of size [2]."""
    lies = orientation >= 5
    start, size = box[:2], box[2:]
    # The reverse of _turn_upright: its last mirroring first.
    upside_down, mirrored = _mirrorings(orientation)
    from_the_end = tf.where(lies, stored[::-1], stored) - start - size
    start = tf.where(tf.stack([upside_down, mirrored]), from_the_end, start)
    return tf.concat([tf.where(lies, start[::-1], start), tf.where(lies, size[::-1], size)], 0)


def _decode_any(encoded: tf.Tensor) -> tf.Tensor:
    """Decode any format to uint8 [h, w, 3]."""
    pixels = tf.io.decode_image(encoded, channels=0, expand_animations=False)
    pixels.set_shape([None, None, None])
    return tf.cond(tf.equal(tf.shape(pixels)[2], 3), lambda: pixels, lambda: _to_rgb(pixels, encoded))


def _mirrorings(orientation: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Tell whether a picture, once transposed where need be, is upside down, and whether it is mirrored."""
    return tf.reduce_any(tf.equal(orientation, [3, 4, 7, 8])), tf.reduce_any(tf.equal(orientation, [2, 3, 6, 7]))


def _to_rgb(pixels: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
    """Turn grey (1), grey + alpha (2) or RGBA (4) uint8 pixels into RGB."""
    count = tf.shape(pixels)[2]
    colour = tf.cond(count >= 3, lambda: pixels[..., :3], lambda: tf.repeat(pixels[..., :1], 3, axis=-1))
    has_alpha = tf.logical_and(tf.equal(count % 2, 0), tf.not_equal(tf.strings.substr(encoded, 0, 2), b"BM"))

    def over_white() -> tf.Tensor:
        alpha = tf.cast(pixels[..., -1:], tf.float32) / 255.0
        mixed = tf.cast(colour, tf.float32) * alpha + 255.0 * (1.0 - alpha)
        return tf.cast(tf.round(mixed), tf.uint8)

    return tf.cond(has_alpha, over_white, lambda: colour)


def _turn_upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undo EXIF orientations 2..8 by a transposition and two mirrorings."""

    def turn() -> tf.Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        upside_down, mirrored = _mirrorings(orientation)
        turned = tf.cond(mirrored, lambda: tf.reverse(turned, [1]), lambda: turned)
        return tf.cond(upside_down, lambda: tf.reverse(turned, [0]), lambda: turned)

    return tf.cond(orientation > 1, turn, lambda: pixels)
