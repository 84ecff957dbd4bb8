"""The seam between file formats and the dataset."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayft.config import ColumnsConfig
from rayft.config.problems import IMPORT_PATTERN
from rayft.data.cache import LocalCache
from rayft.data.reader import Reader
from rayft.data.split import SPLIT_NAMES
from rayft.errors import DataError
from rayft.storage import Storage


@dataclass(frozen=True)
class Listing:
    """What a source holds, before classes are numbered and splits drawn; all arrays are [n].

    Attributes:
        names: string; what a person would call each example.
        labels: Strings or numbers; lists of them where examples may have several.
        label_names: Name of each example's class, if the source has such a column.
        class_names: Names of classes 0, 1, .., if the source lists them.
        splits: Split of each example as written, if the source has it.
        groups: Group of each example, if the source has it.
        fingerprint: Hex SHA-256 over what the examples are, wherever they lie.
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


# Takes data.source and data.columns.
Source = Callable[[str, ColumnsConfig, LocalCache], Listing]

ALLOWED = (
    "a folder with a folder per class; a file, or a folder of files, ending in .parquet, .arrow, .csv, .tsv, .jsonl "
    "or .tfrecord; a folder that Hugging Face datasets saved; module:function"
)
_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
# TensorFlow Datasets numbers the parts of a file behind its suffix.
_TFRECORD = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?(-\d+-of-\d+)?$", re.IGNORECASE)
_TEXT = ("csv", "tsv", "jsonl")
SAVED_MARKS = ("dataset_dict.json", "state.json")


def detect_format(place: str) -> str:
    """Return the kind of source, a key of ``dataset.SOURCES``, that a path, URI or import path names.

    Raises:
        DataError: There is nothing at the path, or nothing known.
    """
    storage = None if re.match(IMPORT_PATTERN, place) and "://" not in place else Storage.open(place)
    if storage is None:
        return "callable"
    if not storage.exists():
        raise DataError(f"data.source {place!r} does not exist.", f"Allowed: {ALLOWED}.")
    if storage.is_folder():
        return _detect_folder(storage)
    known = format_of(storage.name)
    if known is None:
        raise DataError(f"data.source {place!r} is a file of unknown format.", f"Allowed: {ALLOWED}.")
    return known


def _detect_folder(storage: Storage) -> str:
    names = [name for name in storage.list() if not name.startswith(".")]
    if any(mark in names for mark in SAVED_MARKS):
        return "huggingface"
    found = {known: name for name in reversed(names) if (known := format_of(name))}
    binary = [known for known in found if known not in _TEXT]
    if binary:
        return binary[0]
    # Lists of labels often lie beside a folder per class; train.csv and test.csv are the data themselves.
    texts = [name for name in names if format_of(name)]
    if texts and all(re.split(r"[-_.]", name)[0] in SPLIT_NAMES for name in texts):
        return next(iter(found))
    # Tables of each split may lie in a folder of their own.
    if names and all(name in SPLIT_NAMES for name in names):
        below = [format_of(name) for name in (storage / names[0]).list()]
        return next((known for known in below if known), "folder")
    return "folder"


def format_of(name: str) -> str | None:
    """Return the table format that a file's name ends in, or None."""
    if _TFRECORD.search(name):
        return "tfrecord"
    return next((known for suffix, known in _SUFFIXES.items() if name.lower().endswith(suffix)), None)


def table_files(storage: Storage, kind: str) -> tuple[Storage, ...]:
    """Return the table files at a path, sorted; hidden files, and files of no table, are ignored.

    Raises:
        DataError: The folder mixes formats.
    """
    if not storage.is_folder():
        return (storage,)
    paths = [storage.relative(info) for info in storage.walk()]
    paths = [path for path in paths if format_of(path) and not any(part.startswith(".") for part in path.split("/"))]
    formats = {format_of(path) for path in paths}
    if len(formats) > 1:
        raise DataError(
            f"{storage.uri} mixes {' and '.join(sorted(map(str, formats)))} files.",
            "Keep one format, or name one file.",
        )
    return tuple(storage / path for path in paths)


def fingerprint(*parts: Any) -> str:
    """Return the hex SHA-256 of parts that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
