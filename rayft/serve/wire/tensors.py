"""Tensors of the Open Inference Protocol: pictures from JSON values or bytes, bytes from answers.

Source: Open Inference Protocol v2, and its binary tensor data extension, whose BYTES elements each follow their
length in 4 bytes, little-endian.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from rayft.serve.contract import RequestError
from rayft.serve.wire.json_text import shown

Pictures = list[bytes] | np.ndarray

# Signatures that are legal text: with these, a string that is no base64 may be the picture itself.
_TEXT_PICTURES = ("GIF8", "BM")
_MAX_RANK = 8
_MAX_EXTENT = 2**31 - 1
_LENGTH = struct.Struct("<I")


def check_shape(shape: Any, where: str) -> tuple[int, ...]:
    """Return a tensor's shape.

    Raises:
        RequestError: 400: it is not a list of numbers from 0 on.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) > _MAX_RANK:
        raise RequestError(f"{where}: the shape is {shown(shape)}; a short list is allowed.", "Example: [1].")
    for extent in shape:
        if type(extent) is not int or not 0 <= extent <= _MAX_EXTENT:
            raise RequestError(
                f"{where}: the shape holds {shown(extent)}; 0 to {_MAX_EXTENT} is allowed.", "Example: [1]."
            )
    return tuple(shape)


def pictures_from_json(data: Any, shape: tuple[int, ...], where: str) -> list[bytes]:
    """Return encoded pictures from a list of base64 strings (or of pictures that are text as they are)."""
    if not isinstance(data, list):
        raise RequestError(f"{where}: the data is {shown(data)}; a list is allowed.", "Send base64 strings.")
    _require_count(len(data), shape, where)
    return [decode_base64(item, f"{where}, element {index}", text=True) for index, item in enumerate(data)]


def decode_base64(value: Any, where: str, *, text: bool = False) -> bytes:
    """Return the bytes of a base64 string; with ``text`` also those of a picture that is text.

    Raises:
        RequestError: 400: it is neither.
    """
    if not isinstance(value, str):
        raise RequestError(f"{where} is {shown(value)}; a base64 string is allowed.", "Encode the picture's bytes.")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    if text and value.startswith(_TEXT_PICTURES):
        try:
            return value.encode()
        except UnicodeEncodeError:
            pass
    raise RequestError(f"{where} is not base64: {shown(value)}.", "Encode with the standard alphabet, with padding.")


def pictures_from_bytes(data: memoryview, shape: tuple[int, ...], where: str) -> list[bytes]:
    """Split a binary BYTES tensor."""
    count, start = _count(shape), 0
    pictures: list[bytes] = []
    while start < len(data):
        if len(pictures) == count:
            raise RequestError(f"{where}: bytes follow the {count} elements of its shape.", "Correct shape or data.")
        if len(data) - start < _LENGTH.size:
            raise RequestError(
                f"{where}: element {len(pictures)} is cut off at byte {len(data)}.",
                "Write each element after its length in 4 bytes, little-endian.",
            )
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if length > len(data) - start:
            raise RequestError(
                f"{where}: element {len(pictures)} says {length} bytes; {len(data) - start} follow.",
                "Write each element after its length in 4 bytes, little-endian.",
            )
        pictures.append(bytes(data[start : start + length]))
        start += length
    _require_count(len(pictures), shape, where)
    return pictures


def images_from_json(data: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return float32 images from numbers, flat or nested."""
    return _reshaped(numbers(data, where).reshape(-1), shape, where)


def numbers(data: Any, where: str) -> np.ndarray:
    """Return float32 from nested lists of finite numbers.

    Raises:
        RequestError: 400: they are ragged, or hold something else.
    """
    fix = "Send numbers in lists of equal lengths."
    if not isinstance(data, list):
        raise RequestError(f"{where}: the data is {shown(data)}; a list is allowed.", fix)
    try:
        found = np.asarray(data)
    except (ValueError, OverflowError):
        raise RequestError(f"{where}: the lists have different lengths.", fix) from None
    if found.dtype.kind not in "iuf":
        # Texts would be read as numbers, mixtures as objects.
        raise RequestError(f"{where}: the data are not numbers throughout.", fix)
    return _finite(found, where)


def images_from_bytes(data: memoryview, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return float32 images from a binary FP32 tensor, without a copy."""
    size = 4 * _count(shape)
    if len(data) != size:
        raise RequestError(
            f"{where}: the shape {list(shape)} takes {size} bytes of FP32; {len(data)} came.", "Correct shape or data."
        )
    return _finite(np.frombuffer(data, "<f4"), where).reshape(shape)


def floats_from_contents(values: Sequence[float], shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return float32 images from the typed contents of a gRPC tensor."""
    return _reshaped(_finite(np.fromiter(values, np.float32, len(values)), where), shape, where)


def bytes_of_texts(texts: Sequence[bytes]) -> bytes:
    """Return a binary BYTES tensor."""
    return b"".join(part for text in texts for part in (_LENGTH.pack(len(text)), text))


def _reshaped(flat: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
    _require_count(flat.size, shape, where)
    return flat.reshape(shape)


def _finite(found: np.ndarray, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        single = found.astype(np.float32, copy=False)
    if not np.isfinite(single).all():
        raise RequestError(f"{where}: it holds a number that is not finite in FP32.", "Send values from 0 to 255.")
    return single


def _require_count(count: int, shape: tuple[int, ...], where: str) -> None:
    if count != _count(shape):
        raise RequestError(
            f"{where}: the shape {list(shape)} has {_count(shape)} elements; {count} came.", "Correct shape or data."
        )


def _count(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
