import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from rayft.data.exif import find_orientation, orientation_of
from rayft.data.picture import decode_picture

HEIGHT, WIDTH = 12, 8
SIZE = (16, 24)


def pixels(channels: int = 3) -> np.ndarray:
    # Blocks of 4 pixels, so that chroma subsampling of JPEG changes little.
    blocks = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, WIDTH // 4, channels))
    return np.kron(blocks, np.ones((4, 4, 1))).astype(np.uint8)


def encode(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(encoded: bytes, size=(HEIGHT, WIDTH), channels=3) -> np.ndarray:
    return decode_picture(tf.constant(encoded), size, channels).numpy()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_the_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_allclose(decode(encode(Image.fromarray(pixels()), kind, **options)), pixels(), atol=1e-3)


def test_a_gif_gives_its_first_frame():
    frames = [Image.fromarray(pixels()), Image.fromarray(255 - pixels())]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode(encoded), pixels(), atol=1e-3)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA")])
def test_transparency_is_composited_over_white(kind, mode):
    picture = Image.fromarray(pixels(4), "RGBA").convert(mode)
    white = Image.new("RGBA", picture.size, "white")
    want = np.asarray(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"), np.float32)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    np.testing.assert_allclose(decode(encode(picture, kind, **options)), want, atol=1)


def test_the_undefined_alpha_of_a_bmp_is_ignored():
    transparent = np.dstack([pixels(), np.zeros((HEIGHT, WIDTH), np.uint8)])
    np.testing.assert_allclose(decode(encode(Image.fromarray(transparent), "BMP")), pixels(), atol=1e-3)


def test_16_bit_grey_keeps_its_high_byte_in_three_channels():
    grey = pixels(1)[..., 0].astype(np.uint16)
    encoded = encode(Image.fromarray(grey * 256 + 77), "PNG")
    np.testing.assert_allclose(decode(encoded), np.repeat(grey[..., None], 3, axis=2), atol=1e-3)


def test_one_channel_is_luma():
    want = pixels() @ np.array([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(decode(encode(Image.fromarray(pixels()), "PNG"), channels=1), want, atol=1e-2)


def test_a_cmyk_jpeg_comes_out_in_its_colours():
    encoded = encode(Image.fromarray(pixels()).convert("CMYK"), "JPEG", quality=98)
    np.testing.assert_allclose(decode(encoded), pixels(), atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["little", "big"])
def test_exif_orientation_turns_a_jpeg_upright_as_pillow_does(orientation, order):
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif[0x010F] = "a maker, so that the tag is not the first"
    exif[0x0112] = orientation
    encoded = encode(Image.fromarray(pixels()), "JPEG", exif=exif.tobytes(), quality=95)
    assert (b"Exif\0\0MM" if order == "big" else b"Exif\0\0II") in encoded
    # Pillow's JPEG decoder rounds otherwise, so it turns the pixels that TensorFlow decodes.
    as_stored = Image.fromarray(tf.io.decode_jpeg(encoded).numpy())
    as_stored.getexif()[0x0112] = orientation
    want = np.asarray(ImageOps.exif_transpose(as_stored), np.float32)
    np.testing.assert_array_equal(decode(encoded, want.shape[:2]), want)
    # The oracle itself reads the file's header as Pillow does.
    assert Image.open(io.BytesIO(encoded)).getexif().get(0x0112) == orientation


def test_a_cut_off_exif_header_counts_as_upright():
    encoded = encode(Image.fromarray(pixels()), "JPEG", quality=95)
    broken = encoded[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\x00\x00\x00" + encoded[2:]
    np.testing.assert_array_equal(decode(broken), decode(encoded))


def with_exif(orientation: int, order: str = "<", behind_jfif: bool = False) -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "a maker, so that the tag is not the first"
    exif[0x0112] = orientation
    encoded = encode(Image.fromarray(pixels()), "JPEG", exif=exif.tobytes())
    jfif = encode(Image.fromarray(pixels()), "JPEG")[2:20] if behind_jfif else b""
    return encoded[:2] + jfif + encoded[2:]


def test_orientation_is_found_alike_in_and_before_the_graph():
    whole = [with_exif(turn, order, jfif) for turn in (*range(10), 300) for order in "<>" for jfif in (False, True)]
    photo = Image.fromarray(pixels())
    plain, commented = encode(photo, "JPEG"), encode(photo, "JPEG", comment=b"seen")
    cut = [whole[-1][:end] for end in range(140)] + [plain[:end] for end in range(40)]
    found = tf.function(find_orientation, input_signature=[tf.TensorSpec([], tf.string)])
    contents = [*whole, *cut, plain, commented, encode(photo, "PNG"), b"hello", b""]
    # Also behind more than a segment may hold, and in bytes that only begin as it does.
    contents += [b"\xff\xd8" + 2 * (b"\xff\xe2\xff\xff" + bytes(65533)) + whole[4][2:], b"\xff\xd8" * 9, b"\xff" * 99]
    got = [orientation_of(content) for content in contents]
    assert got == [int(found(content)) for content in contents]
    assert got[:44] == [turn if 1 <= turn <= 8 else 1 for turn in (*range(10), 300) for _ in range(4)]
    assert got[len(whole + cut) :] == [1, 1, 0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_an_orientation_given_changes_no_pixel(mode):
    photo = Image.fromarray(np.asarray(Image.fromarray(pixels()).resize((61, 43)))).convert(mode)
    box = tf.constant([5, 7, 20, 30])
    for kind in ("JPEG",) if mode == "CMYK" else ("JPEG", "PNG"):
        encoded = encode(photo, kind)
        for choose_box in (None, lambda size: box):
            given = decode_picture(tf.constant(encoded), SIZE, 3, choose_box, tf.constant(orientation_of(encoded)))
            np.testing.assert_array_equal(given, decode_picture(tf.constant(encoded), SIZE, 3, choose_box))


def test_resizing_averages_over_what_it_shrinks():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    small = decode(encode(Image.fromarray(checks.astype(np.uint8)), "PNG"), (8, 8))
    np.testing.assert_allclose(small, 127.5, atol=4)


def test_bytes_that_are_no_picture_are_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(b"hello")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_of_a_jpeg_is_the_part_of_the_upright_picture(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = np.asarray(Image.fromarray(pixels()).resize((64, 96)))
    encoded = encode(Image.fromarray(big), "JPEG", exif=exif.tobytes(), quality=95, subsampling=0)
    size = (96, 64) if orientation < 5 else (64, 96)
    whole = decode(encoded, size)
    box = tf.constant([10, 20, 33, 41])
    part = decode_picture(tf.constant(encoded), (33, 41), 3, lambda size: box).numpy()
    np.testing.assert_allclose(part, whole[10:43, 20:61], atol=1e-3)


def test_a_box_sees_the_size_of_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode(Image.fromarray(pixels()), "JPEG", exif=exif.tobytes())
    for content, size in ((encoded, (WIDTH, HEIGHT)), (encode(Image.fromarray(pixels()), "PNG"), (HEIGHT, WIDTH))):
        seen = []

        def whole(size, seen=seen):
            seen.append(tuple(size.numpy()))
            return tf.concat([[0, 0], size], 0)

        part = decode_picture(tf.constant(content), size, 3, whole)
        assert seen == [size]
        np.testing.assert_allclose(part, decode(content, size), atol=1e-3)


def test_no_byte_is_transposed_since_tensorflow_logs_an_error_of_it():
    box = tf.constant([0, 0, 4, 4])
    for choose_box in (None, lambda size: box):
        function = tf.function(lambda encoded, choose=choose_box: decode_picture(encoded, SIZE, 3, choose))
        definition = function.get_concrete_function(tf.TensorSpec([], tf.string)).graph.as_graph_def()
        nodes = [*definition.node, *(node for each in definition.library.function for node in each.node_def)]
        transposed = [node.attr["T"].type for node in nodes if node.op == "Transpose"]
        assert transposed
        assert set(transposed) == {tf.float32.as_datatype_enum}
