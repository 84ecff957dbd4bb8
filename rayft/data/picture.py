"""From the encoded bytes of a picture to pixels of a fixed size.

Training, evaluation and the Predictor all call ``decode_picture``, so they see the same pixels.
Everything runs in TensorFlow's C++ kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Height and width of the upright picture, [2] -> top, left, height, width of the part to keep, [4]; int32.
ChooseBox = Callable[[tf.Tensor], tf.Tensor]

# ITU-R BT.601 luma.
LUMA = (0.299, 0.587, 0.114)
# EXIF lies in one of the first JPEG segments, and a segment holds at most 64 KiB.
_HEAD_BYTES = 1 << 16
# How almost every JPEG without EXIF begins: a JFIF header of 16 bytes, then a quantization table. Bytes by place.
_PLAIN_JPEG = {0: 0xFF, 1: 0xD8, 2: 0xFF, 3: 0xE0, 4: 0x00, 5: 0x10, 20: 0xFF, 21: 0xDB}


def decode_picture(
    encoded: tf.Tensor, image_size: tuple[int, int], channels: int, choose_box: ChooseBox | None = None
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

    Returns:
        float32 [height, width, channels] in 0..255, up to rounding (1e-4) in the resize.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are not such a picture.
    """
    pixels, orientation = _decode_stored(encoded) if choose_box is None else _decode_part(encoded, choose_box)
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


def _is_plain_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Tell by a few bytes that a picture is a JPEG without EXIF; of the others, some are as well."""
    # Shorter contents are padded with zeros, where a substring would be an error.
    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=max(_PLAIN_JPEG) + 1)
    return tf.reduce_all(tf.equal(tf.gather(head, [*_PLAIN_JPEG]), tf.constant([*_PLAIN_JPEG.values()], tf.uint8)))


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, 2), b"\xff\xd8")


def _decode_stored(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode to uint8 [h, w, 3], as stored; also returns the orientation, int32 1..8."""

    def look_closely() -> tuple[tf.Tensor, tf.Tensor]:
        orientation = tf.cond(_is_jpeg(encoded), lambda: _exif_orientation(encoded), lambda: 1)
        return _decode_whole(encoded), orientation

    def decode_plain() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.io.decode_jpeg(encoded, channels=3), tf.constant(1)

    # What is skipped takes as long as a tenth of decoding: it is many small operations.
    return tf.cond(_is_plain_jpeg(encoded), decode_plain, look_closely)


def _decode_part(encoded: tf.Tensor, choose_box: ChooseBox) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode what a box in the upright picture asks for, as ``_decode_stored`` does."""
    is_jpeg = _is_jpeg(encoded)
    whole = tf.cond(is_jpeg, lambda: tf.zeros([0, 0, 3], tf.uint8), lambda: _decode_whole(encoded))
    stored = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(encoded), lambda: tf.shape(whole))[:2]
    may_be_turned = tf.logical_and(is_jpeg, tf.logical_not(_is_plain_jpeg(encoded)))
    orientation = tf.cond(may_be_turned, lambda: _exif_orientation(encoded), lambda: 1)
    upright = tf.cond(orientation >= 5, lambda: stored[::-1], lambda: stored)
    box = choose_box(upright)
    window = tf.cond(orientation > 1, lambda: _stored_window(box, upright, orientation), lambda: box)

    def cut() -> tf.Tensor:
        top, left, height, width = tf.unstack(window)
        return whole[top : top + height, left : left + width]

    part = tf.cond(is_jpeg, lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels=3), cut)
    return part, orientation


def _stored_window(box: tf.Tensor, upright: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Return where a box of the upright picture lies in the picture as it is stored."""
    start, size = box[:2], box[2:]
    # The reverse of _turn_upright: its last mirroring first.
    upside_down, mirrored = _mirrorings(orientation)
    start = tf.where(tf.stack([upside_down, mirrored]), upright - start - size, start)
    lies = orientation >= 5
    return tf.concat([tf.where(lies, start[::-1], start), tf.where(lies, size[::-1], size)], 0)


def _decode_whole(encoded: tf.Tensor) -> tf.Tensor:
    """Decode to uint8 [h, w, 3], as stored."""
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


def _exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Read the orientation of a JPEG, int32 1..8; 1 where there is none.

    Source: CIPA DC-008 (EXIF 2.32), sections 4.5 and 4.6.4.
    """
    head = tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEAD_BYTES), tf.uint8)

    def byte(at: tf.Tensor) -> tf.Tensor:
        # Past the end reads the last byte: a cut-off header then matches no tag.
        return tf.cast(tf.gather(head, tf.clip_by_value(at, 0, tf.size(head) - 1)), tf.int32)

    def is_other_segment(at: tf.Tensor) -> tf.Tensor:
        marker = byte(at + 1)
        is_header = tf.logical_or(tf.logical_and(marker >= 0xE0, marker <= 0xEF), tf.equal(marker, 0xFE))
        is_segment = tf.logical_and(tf.equal(byte(at), 0xFF), is_header)
        return tf.logical_and(is_segment, tf.logical_and(at < tf.size(head), tf.logical_not(is_exif(at))))

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        tag = tf.constant([0xFF, 0xE1, *b"Exif\0\0"])
        return tf.reduce_all(tf.equal(byte(at + tf.constant([0, 1, 4, 5, 6, 7, 8, 9])), tag))

    segment = tf.while_loop(is_other_segment, lambda at: [at + 2 + byte(at + 2) * 256 + byte(at + 3)], [2])[0]

    def read() -> tf.Tensor:
        tiff = segment + 10
        little = tf.equal(byte(tiff), ord("I"))

        def short(at: tf.Tensor) -> tf.Tensor:
            return tf.where(little, byte(at) + byte(at + 1) * 256, byte(at) * 256 + byte(at + 1))

        # The folder's offset has four bytes; one past 64 KiB cannot lie in this segment.
        folder = tiff + short(tiff + tf.where(little, 4, 6))
        entries = folder + 2 + 12 * tf.range(short(folder))
        is_orientation = tf.logical_and(tf.equal(short(entries), 0x0112), tf.equal(short(entries + 2), 3))
        value = tf.reduce_max(tf.where(is_orientation, short(entries + 8), 1))
        return tf.where(tf.logical_and(value >= 1, value <= 8), value, 1)

    return tf.cond(is_exif(segment), read, lambda: 1)
