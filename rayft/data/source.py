"""The seam between file formats and the dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayft.config import ColumnsConfig
from rayft.data.reader import Reader
from rayft.errors import DataError
from rayft.storage import Storage


@dataclass(frozen=True)
class Listing:
    """What a source holds, before classes are numbered and splits drawn; all arrays are [n].

    Attributes:
        names: string; what a person would call each example.
        labels: Strings or numbers.
        label_names: Name of each example's class, if the source has such a column.
        class_names: Names of classes 0, 1, .., if the source lists them.
        splits: Split of each example as written, if the source has it.
        groups: Group of each example, if the source has it.
        fingerprint: Hex SHA-256 over what the examples are.
        reader: Access to the encoded pictures.
    """

    names: pa.Array
    labels: pa.Array
    label_names: pa.Array | None
    class_names: tuple[str, ...] | None
    splits: pa.Array | None
    groups: pa.Array | None
    fingerprint: str
    reader: Reader


Source = Callable[[Storage, ColumnsConfig, Path], Listing]


def detect_format(storage: Storage) -> str:
    """Return the name of the format that a path holds: folder, parquet or arrow.

    Raises:
        DataError: There is nothing at the path, or nothing known.
    """
    if not storage.exists():
        raise DataError(f"data.source {storage.uri!r} does not exist.", "Give a folder, or a Parquet or Arrow file.")
    if storage.is_folder():
        names = [name for name in storage.list() if not name.startswith(".")]
        return next((known for name in names if (known := format_of(name))), "folder")
    known = format_of(storage.name)
    if known is None:
        raise DataError(
            f"data.source {storage.uri!r} is a file of unknown format.",
            f"Allowed: a folder with a folder per class, or a file ending in {', '.join(_SUFFIXES)}.",
        )
    return known


def format_of(name: str) -> str | None:
    """Return the table format that a file's name ends in, or None."""
    return next((known for suffix, known in _SUFFIXES.items() if name.lower().endswith(suffix)), None)


_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}


def fingerprint(*parts: Any) -> str:
    """Return the hex SHA-256 of parts that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
