"""The reader of PyTorch files against files crafted byte by byte."""

import collections
import io
import pickle
import re
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from rayft.errors import ModelError
from rayft.model.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL, read_state_dict

VALUES = np.arange(12, dtype="<f4")
RAW = VALUES.tobytes()
# Names that pickle protocol 2 writes in another way.
WRITTEN = {("os", "mkdir"): "posix", ("builtins", "eval"): "__builtin__", ("builtins", "getattr"): "__builtin__"}


class Storage:
    """Pickles as a reference to storage bytes, as torch writes it."""

    def __init__(self, kind="FloatStorage", size=12, key="0"):
        self.pid = ("storage", _named("torch", kind), key, "cpu", size)


class Tensor:
    """Pickles as a call of torch._utils._rebuild_tensor_v2."""

    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return _named("torch._utils", "_rebuild_tensor_v2"), self.arguments


class Hostile:
    def __init__(self, module, name, *arguments):
        self.call = (_named(module, name), arguments)

    def __reduce__(self):
        return self.call


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return thing.pid if isinstance(thing, Storage) else None


def _named(module, name):
    """Return something that pickles as the global module.name; torch itself is not installed."""
    if module not in sys.modules or not hasattr(sys.modules[module], name):
        for part in ("torch", module):
            sys.modules.setdefault(part, types.ModuleType(part))
        stand_in = type(name, (), {})
        stand_in.__module__, stand_in.__qualname__ = module, name
        setattr(sys.modules[module], name, stand_in)
    return getattr(sys.modules[module], name)


@pytest.fixture(autouse=True)
def _no_torch_left_behind():
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    yield
    for name, module in before.items():
        if module is None:
            sys.modules.pop(name, None)


def dumps(content):
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def write_zip(path, content, raw=RAW):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dumps(content))
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", raw)
    return path


def write_legacy(path, content, raw=RAW, size=12):
    head = [LEGACY_MAGIC, LEGACY_PROTOCOL, {"protocol_version": 1001, "little_endian": True}]
    path.write_bytes(b"".join(map(dumps, [*head, content, ["0"]])) + struct.pack("<q", size) + raw)
    return path


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_tensors_come_back_with_their_offset_and_strides(tmp_path, write):
    storage = Storage()
    content = collections.OrderedDict(
        plain=Tensor(storage, 0, (3, 4), (4, 1)),
        transposed=Tensor(storage, 4, (2, 4), (1, 2)),
        scalar=Tensor(storage, 7, (), ()),
        epoch=3,
    )
    read = read_state_dict(write(tmp_path / "w.pth", content))
    assert sorted(read) == ["plain", "scalar", "transposed"]
    np.testing.assert_array_equal(read["plain"], VALUES.reshape(3, 4))
    np.testing.assert_array_equal(read["transposed"], [[4, 6, 8, 10], [5, 7, 9, 11]])
    assert read["scalar"] == 7


def test_bfloat16_is_widened_to_float32(tmp_path):
    raw = np.array([0x3F80, 0xC040, 0x0000], "<u2").tobytes()
    content = {"state_dict": {"w": Tensor(Storage("BFloat16Storage", 3), 0, (3,), (1,))}}
    read = read_state_dict(write_zip(tmp_path / "w.pth", content, raw))
    np.testing.assert_array_equal(read["w"], np.array([1.0, -3.0, 0.0], np.float32))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("os", "mkdir", ("PWNED",)),
        ("builtins", "eval", ("open('PWNED', 'w')",)),
        ("builtins", "getattr", ({}, "keys")),
        ("torch", "load", ("x",)),
        ("torch._utils", "_rebuild_device_tensor_from_numpy", ()),
        ("collections", "Counter", ()),
    ],
)
def test_a_file_that_names_anything_but_tensors_is_refused_by_name(
    tmp_path, monkeypatch, write, module, name, arguments
):
    monkeypatch.chdir(tmp_path)
    hostile = Hostile(module, name, *arguments)
    written = WRITTEN.get((module, name), module)
    path = write(tmp_path / "w.pth", {"w": Tensor(Storage(), 0, (12,), (1,)), "x": hostile})
    with pytest.raises(ModelError, match=rf"{re.escape(written)}\.{name}.*refused"):
        read_state_dict(path)
    assert not (tmp_path / "PWNED").exists()


def test_a_dotted_global_is_refused(tmp_path):
    # Protocol 4 resolves dotted names from an allowed module's attributes.
    attack = b"\x80\x04\x8c\x0bcollections\x8c\x11OrderedDict.clear\x93."
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", attack)
    with pytest.raises(ModelError, match=r"collections\.OrderedDict\.clear"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "view",
    [(0, (13,), (1,)), (8, (5,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (10**12,), (0,)), (0, (3,), (1, 1))],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, view):
    path = write_zip(tmp_path / "w.pth", {"w": Tensor(Storage(), *view)})
    with pytest.raises(ModelError, match="safe PyTorch weights"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 100, b"PK\x03\x04 not a zip", pickle.dumps([1, 2]), pickle.dumps(LEGACY_MAGIC)],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.pth"):
        read_state_dict(path)


def test_truncated_storages_are_refused(tmp_path):
    content = {"w": Tensor(Storage(), 0, (12,), (1,))}
    for path in (
        write_zip(tmp_path / "a.pth", content, raw=RAW[:-1]),
        write_legacy(tmp_path / "b.pth", content, raw=RAW[:-1]),
        write_legacy(tmp_path / "c.pth", content, size=2**60),
    ):
        with pytest.raises(ModelError):
            read_state_dict(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"missing\.pth"):
        read_state_dict(tmp_path / "missing.pth")


def test_a_file_without_tensors_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no tensors"):
        read_state_dict(write_zip(tmp_path / "w.pth", {"epoch": 3}))
