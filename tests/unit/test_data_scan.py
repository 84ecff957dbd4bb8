import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image

from rayft.data.dataset import Dataset
from rayft.data.picture import decode_picture
from rayft.data.scan import check_pictures, find_bad, problem_of
from rayft.errors import DataError


class ListReader:
    """Pictures in memory; counts what is read."""

    def __init__(self, pictures: list[bytes]) -> None:
        self.pictures, self.num_read = pictures, 0

    def read(self, rows: np.ndarray) -> list[bytes]:
        self.num_read += len(rows)
        return [self.pictures[row] for row in rows]


def encode(kind: str = "PNG", mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((20, 16), 60).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def coloured_palette_bmp() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").quantize(8).save(buffer, "BMP")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of 20000 x 20000 pixels by its header."""
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + encode()[33:]


def dataset_of(pictures: list[bytes]) -> Dataset:
    count = len(pictures)
    examples = pa.table(
        {
            "row": pa.array(range(count), pa.int64()),
            "label": pa.array([n % 2 for n in range(count)], pa.int32()),
            "name": [f"{n}.png" for n in range(count)],
            "split": ["train"] * count,
        }
    )
    return Dataset(examples, ("a", "b"), "f" * 64, ListReader(pictures))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "is empty"),
        (b"hello, I am text", "is not a picture"),
        (encode()[:-40], "cannot be decoded"),
        (encode("JPEG")[:-200], "cannot be decoded"),
        (encode("TIFF"), "is TIFF; JPEG, PNG, GIF, BMP and WebP are allowed"),
        (coloured_palette_bmp(), "is a BMP with a palette"),
        (encode("BMP", "1"), "is a BMP with a palette"),
        (bomb(), "has 20000 x 20000 pixels, more than data.max_pixels 1000000"),
    ],
)
def test_a_bad_picture_is_found_with_its_reason(encoded, reason):
    found = find_bad(dataset_of([encoded]), 1_000_000, print)
    assert reason in found[0]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"),
        ("PNG", "1"), ("PNG", "I;16"), ("GIF", "P"), ("BMP", "RGB"), ("BMP", "RGBA"), ("BMP", "L"), ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
    ],
)  # fmt: skip
def test_what_passes_can_be_decoded_by_tensorflow(kind, mode):
    encoded = encode(kind, mode)
    assert problem_of(encoded, 1000) is None
    assert decode_picture(tf.constant(encoded), (8, 8), 3).shape == (8, 8, 3)


def test_fail_names_every_bad_file_up_to_twenty_and_counts_them(tmp_path):
    pictures = [encode()] * 4 + [b""] * 30
    with pytest.raises(DataError, match=r"30 of 34 pictures cannot be used") as caught:
        check_pictures(dataset_of(pictures), on_bad="fail", max_pixels=1000, cache_folder=tmp_path)
    assert "  4.png: is empty (0 bytes)\n" in str(caught.value)
    assert "23.png" in str(caught.value)
    assert "24.png" not in str(caught.value)
    assert "and 10 more" in str(caught.value)


def test_skip_leaves_bad_files_out_and_names_each(tmp_path):
    dataset, said = dataset_of([encode(), b"", encode(), encode()]), []
    good = check_pictures(dataset, on_bad="skip", max_pixels=1000, progress=said.append, cache_folder=tmp_path)
    assert good.examples["row"].to_pylist() == [0, 2, 3]
    assert said == ["skipped 1.png: is empty (0 bytes)"]
    assert good.fingerprint != dataset.fingerprint


def test_skip_refuses_to_lose_a_class(tmp_path):
    with pytest.raises(DataError, match="no training example: b"):
        check_pictures(dataset_of([encode(), b""]), on_bad="skip", max_pixels=1000, cache_folder=tmp_path)


def test_a_second_check_decodes_nothing_unless_the_limit_changes(tmp_path):
    dataset = dataset_of([encode(), encode()])
    for max_pixels, num_read in ((1000, 2), (1000, 2), (999, 4)):
        check_pictures(dataset, on_bad="fail", max_pixels=max_pixels, cache_folder=tmp_path)
        assert dataset.reader.num_read == num_read


def test_good_pictures_leave_the_dataset_as_it_is(tmp_path):
    dataset = dataset_of([encode(), encode()])
    assert check_pictures(dataset, on_bad="skip", max_pixels=1000, cache_folder=tmp_path) is dataset
