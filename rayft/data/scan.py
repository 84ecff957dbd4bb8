"""The check that every picture can be decoded, before a run relies on it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from rayft.data.dataset import Dataset, default_cache_folder, drop_rows
from rayft.errors import DataError
from rayft.storage import Storage

_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")  # MPO: JPEG with more pictures behind the first.
_NAMED = 20  # Bad files listed in a message.
_THREADS = 8
_CHUNK = 256
_CACHE_VERSION = 1


def check_pictures(
    dataset: Dataset,
    *,
    on_bad: Literal["fail", "skip"],
    max_pixels: int,
    progress: Callable[[str], None] | None = None,
    cache_folder: Path | None = None,
) -> Dataset:
    """Decode every picture once; return the dataset of the good ones.

    The result is kept in the cache folder by the dataset's fingerprint, so a second run decodes
    nothing here.

    Args:
        dataset: The examples.
        on_bad: ``skip`` leaves bad pictures out and names each to ``progress``.
        max_pixels: Pictures with more, by their header, are bad and are not decoded.
        progress: Receives one line of text at a time.
        cache_folder: ``~/.cache/rayft`` if not given.

    Raises:
        DataError: ``fail``: names the bad files with reasons. ``skip``: what is left cannot be
            trained on.
    """
    say = progress or (lambda line: None)
    folder = cache_folder or default_cache_folder()
    memo = Storage.open(folder / f"{dataset.fingerprint}.scan-{_CACHE_VERSION}-{max_pixels}.json")
    if memo.exists():
        bad = {int(row): reason for row, reason in json.loads(memo.read_bytes()).items()}
    else:
        bad = find_bad(dataset, max_pixels, say)
        memo.write_bytes(json.dumps(bad).encode())
    names = dict(zip(dataset.examples["row"].to_pylist(), dataset.examples["name"].to_pylist(), strict=True))
    lines = [f"{names[row]}: {reason}" for row, reason in sorted(bad.items())]
    if bad and on_bad == "fail":
        shown = "\n".join(f"  {line}" for line in lines[:_NAMED])
        more = f"\n  and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
        raise DataError(
            f"{len(lines)} of {len(names)} pictures cannot be used:\n{shown}{more}",
            "Repair or remove them, or set data.on_bad: skip to train without them.",
        )
    for line in lines:
        say(f"skipped {line}")
    return drop_rows(dataset, sorted(bad))


def find_bad(dataset: Dataset, max_pixels: int, say: Callable[[str], None]) -> dict[int, str]:
    """Return why each bad picture is bad, by row."""
    rows = dataset.examples["row"].to_numpy()
    bad: dict[int, str] = {}

    def look(row: int) -> str | None:
        try:
            (encoded,) = dataset.reader.read(np.array([row]))
        except DataError as error:
            return str(error.args[0])
        return problem_of(encoded, max_pixels)

    with _pillow_without_limits(), ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK].tolist()
            found = zip(chunk, pool.map(look, chunk), strict=True)
            bad.update({row: reason for row, reason in found if reason is not None})
            if len(rows) > _CHUNK:
                say(f"checked {min(start + _CHUNK, len(rows))} of {len(rows)} pictures")
    return bad


def problem_of(encoded: bytes, max_pixels: int) -> str | None:
    """Return why a picture cannot be used, or None.

    Args:
        encoded: The file's content.
        max_pixels: Largest width x height; larger ones are not decoded.
    """
    if not encoded:
        return "is empty (0 bytes)"
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            width, height = picture.size
            if picture.format not in _FORMATS:
                return f"is {picture.format}; JPEG, PNG, GIF, BMP and WebP are allowed"
            if width * height > max_pixels:
                return f"has {width} x {height} pixels, more than data.max_pixels {max_pixels}"
            if picture.format == "BMP" and not _is_plain_bmp(encoded, picture.mode):
                return "is a BMP with a palette, compression or fewer than 8 bits a channel; save it as PNG"
            picture.load()
    except Image.DecompressionBombError as error:
        return f"is too large: {error}"
    except Image.UnidentifiedImageError:
        return "is not a picture"
    # What Pillow's decoders raise on damaged files, per format.
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error) as error:
        return f"cannot be decoded: {str(error) or type(error).__name__}"
    return None


def _is_plain_bmp(encoded: bytes, mode: str) -> bool:
    """Tell whether TensorFlow reads it right: it knows no palettes, and no headers of other layouts."""
    header_size, _, _, _, bits, compression = struct.unpack_from("<IiiHHI", encoded, 14)
    return header_size >= 40 and bits in (8, 24, 32) and compression in (0, 3) and mode in ("RGB", "RGBA", "L")


@contextlib.contextmanager
def _pillow_without_limits() -> Iterator[None]:
    """Leave the limit on pixels to ``max_pixels``, and Pillow's warnings out of the output."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        # Both are global to the process, so they are set outside the threads.
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
