"""From what a request holds to decoded pictures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from rayft.errors import DataError
from rayft.serve.contract import RequestError
from rayft.serve.predictor import Predictor

# What rounding in a resize may add to either end of the range.
_SLACK = 1e-2


def decode_encoded(predictor: Predictor, picture: bytes, index: int) -> np.ndarray:
    """Decode a picture exactly as ``predictor.predict`` does.

    Raises:
        RequestError: 413 for too many pixels, 422 for what is no picture; names the index.
    """
    try:
        return predictor.decode(picture, f"number {index}")
    except DataError as error:
        problem, fix = error.args
        if _num_pixels(picture) > predictor.max_pixels:
            raise RequestError(
                f"Picture number {index} has more than {predictor.max_pixels:,} pixels.", "Send a smaller one.", 413
            ) from None
        raise RequestError(problem, fix, 422) from None


def check_decoded(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return decoded pictures as float32 [n, H, W, C].

    Raises:
        RequestError: 422 for another shape, type or range.
    """
    if images.ndim != 4 or images.shape[1:] != shape:
        raise RequestError(
            f"The pictures have the shape {list(images.shape)}; [n, {', '.join(map(str, shape))}] is allowed.",
            "Resize them, or send encoded pictures.",
            422,
        )
    if images.dtype.kind not in "fiu":
        raise RequestError(f"The pictures have the type {images.dtype}; float32 is allowed.", "Convert them.", 422)
    images = images.astype(np.float32, copy=False)
    # Not-a-number is not within the range either.
    if not ((images >= -_SLACK) & (images <= 255 + _SLACK)).all():
        raise RequestError(
            "The pictures have values outside of 0..255, or that are no numbers.", "Send colours from 0 to 255.", 422
        )
    return images


def _num_pixels(picture: bytes) -> int:
    try:
        with Image.open(io.BytesIO(picture)) as opened:
            return opened.width * opened.height
    except Image.DecompressionBombError:
        return 1 << 62
    # Whatever a damaged header makes Pillow raise: it is no picture then.
    except Exception:
        return 0
