"""Reader of PyTorch weight files that runs no code from them."""

from __future__ import annotations

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rayft.errors import ModelError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # widened to float32 below
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_FIX = "Use a state dict of plain tensors: torch.save(model.state_dict(), path)."
# What the unpickler and the array code raise on damaged or hostile bytes.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class _Kind:
    """A torch storage class, by name; the class itself is never loaded."""

    name: str


@dataclass(frozen=True, eq=False)
class _Storage:
    kind: str
    key: str
    size: int


@dataclass(frozen=True, eq=False)
class _View:
    """A tensor whose storage has not been read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a ``.pth``/``.pt`` file, in the zip container or the legacy one.

    Only tensors and dicts are rebuilt; the unpickler resolves an allow-list of names and refuses others.
    bfloat16 is widened to float32. Entries that are not tensors are left out; a file that wraps its
    tensors as ``{"state_dict": {...}}`` is unwrapped.

    Returns:
        Name to array, C-contiguous, in torch's layout (convolutions [out, in, height, width]).

    Raises:
        ModelError: The file is unreadable, damaged, holds no tensors, or names anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            content, storages = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds {type(content).__name__}, not a dict of tensors")
        tensors = {str(name): _array(view, storages) for name, view in content.items() if isinstance(view, _View)}
    except OSError as error:
        raise ModelError(f"Cannot read the weights file {str(path)!r}: {error}.", "Give an existing file.") from None
    except _DAMAGE as error:
        raise ModelError(f"{path} is not a safe PyTorch weights file: {error}.", _FIX) from None
    if not tensors:
        raise ModelError(f"{path} holds no tensors.", _FIX)
    return tensors


class _TensorUnpickler(pickle.Unpickler):
    """Unpickler that can name nothing but tensors."""

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in STORAGE_DTYPES:
            return _Kind(name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused; only tensors are allowed")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, key, size = pid[1], str(pid[2]), int(pid[4])
        if pid[0] != "storage" or not isinstance(kind, _Kind) or size < 0:
            raise pickle.UnpicklingError("it refers to something that is not a tensor storage")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("it holds views of storages, which are not supported")
        return self._storages.setdefault(key, _Storage(kind.name, key, size))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("it builds a tensor from something that is not a storage")
    return _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _read_zip(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    storages: dict[str, _Storage] = {}
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"the archive holds {len(pickles)} data.pkl, not one")
        root = pickles[0].removesuffix("data.pkl")
        if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        content = _TensorUnpickler(io.BytesIO(archive.read(pickles[0])), storages).load()
        arrays = {}
        for key, storage in storages.items():
            name = f"{root}data/{key}"
            # The declared size bounds what a crafted archive can make us unpack.
            if archive.getinfo(name).file_size != storage.size * np.dtype(STORAGE_DTYPES[storage.kind]).itemsize:
                raise ValueError(f"storage {key} is not as long as declared")
            arrays[key] = _decode(archive.read(name), storage)
    return content, arrays


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    storages: dict[str, _Storage] = {}
    file.seek(0)

    def load() -> Any:
        return _TensorUnpickler(file, storages).load()

    if load() != LEGACY_MAGIC or load() != LEGACY_PROTOCOL:
        raise ValueError("it does not start as one")
    if load().get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    content = load()
    arrays = {}
    for key in load():
        storage = storages[str(key)]
        (size,) = struct.unpack("<q", file.read(8))
        if size != storage.size:
            raise ValueError(f"storage {key} is not as long as declared")
        arrays[storage.key] = _decode(file.read(size * np.dtype(STORAGE_DTYPES[storage.kind]).itemsize), storage)
    return content, arrays


def _decode(raw: bytes, storage: _Storage) -> np.ndarray:
    array = np.frombuffer(raw, STORAGE_DTYPES[storage.kind], count=storage.size)
    if storage.kind == "BFloat16Storage":
        # bfloat16 is the upper half of a float32.
        return (array.astype("<u4") << 16).view("<f4")
    return array


def _array(view: _View, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    data = storages[view.storage.key]
    if len(view.shape) != len(view.strides) or min((view.offset, *view.shape, *view.strides)) < 0:
        raise ValueError("a tensor has a negative size or step")
    # A zero stride could name far more numbers than the file holds.
    last = view.offset + sum((side - 1) * step for side, step in zip(view.shape, view.strides, strict=True))
    count: int = math.prod(view.shape)
    if count > data.size or (count and last >= data.size):
        raise ValueError("a tensor reaches outside its storage")
    strides = tuple(step * data.itemsize for step in view.strides)
    strided = np.lib.stride_tricks.as_strided(data[view.offset :], view.shape, strides, writeable=False)
    return np.array(strided, order="C")
