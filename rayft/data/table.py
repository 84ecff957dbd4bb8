"""Pictures in a Parquet or Arrow table, as bytes or as paths."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pyarrow as pa

from rayft.config import ColumnsConfig
from rayft.data.cache import cache_pictures, digest_of_column, write_pictures
from rayft.data.columns import resolve_columns
from rayft.data.reader import FileReader, MappedReader, Reader
from rayft.data.source import Listing, fingerprint
from rayft.data.table_files import count_rows, read_columns, read_schema, table_files
from rayft.errors import DataError
from rayft.storage import Storage


def read_table(storage: Storage, columns: ColumnsConfig, cache_folder: Path) -> Listing:
    """List a Parquet or Arrow file, or all such files of a folder in the order of their names.

    Encoded bytes are copied once into an uncompressed Arrow file in ``cache_folder``, which every
    process maps; opening the unchanged table again does not read them.

    Raises:
        DataError: An unreadable file, or missing, doubled or mistyped columns.
    """
    files = table_files(storage)
    schema = read_schema(files[0])
    found = resolve_columns(schema, columns, storage.uri)
    table = read_columns(files, found.small())
    base = storage if storage.is_folder() else storage.parent
    names = [f"{base.relative(file)}#{row}" for file in files for row in range(count_rows(file))]
    if not names:
        raise DataError(f"{storage.uri} holds no rows.", "Give a table with examples.")

    def column(name: str | None) -> pa.Array | None:
        return None if name is None else table.column(name).combine_chunks()

    reader: Reader
    if found.image is not None:
        digest = cache_pictures(files, found.image, cache_folder)
        rebuild = functools.partial(write_pictures, files, found.image, digest, cache_folder)
        reader = MappedReader(str(cache_folder / f"{digest}.arrow"), rebuild)
    else:
        paths = _paths(table, str(found.path))
        reader, digest = FileReader(base, paths), _digest_of_files(base, paths)
        names = paths.to_pylist()
    classes = _class_names(schema, found.label)
    parts = [digest_of_column(column(name)) for name in (found.label, found.label_name, found.split, found.group)]
    return Listing(
        names=pa.array(names, pa.string()),
        labels=column(found.label),
        label_names=column(found.label_name),
        class_names=classes,
        splits=column(found.split),
        groups=column(found.group),
        fingerprint=fingerprint("table", digest, classes, parts),
        reader=reader,
    )


def _paths(table: pa.Table, name: str) -> pa.Array:
    paths = table.column(name).combine_chunks().cast(pa.string())
    if paths.null_count:
        row = paths.is_null().to_pylist().index(True)
        raise DataError(f"Row {row} has no path (null) in column {name!r}.", "Give each row a path, or remove it.")
    return paths


def _digest_of_files(base: Storage, paths: pa.Array) -> str:
    """Identify files by path, size and time; a missing file has neither, and is found as a bad picture."""
    infos = base.filesystem.get_file_info([(base / path).root for path in paths.to_pylist()])
    return fingerprint([(path.as_py(), info.size, info.mtime_ns) for path, info in zip(paths, infos, strict=True)])


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Read class names from the metadata: ours (a JSON list) or Hugging Face's."""
    metadata = schema.metadata or {}
    try:
        if b"classes" in metadata:
            names = json.loads(metadata[b"classes"])
        elif b"huggingface" in metadata:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            names = features.get(label, {}).get("names")
        else:
            names = None
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"The metadata of the table names its classes in no known way: {error!r}.", "Correct it."
        ) from None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"The metadata of the table lists the classes {names!r}.", "List different strings.")
    return tuple(names)
