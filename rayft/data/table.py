"""From a table of pictures, as bytes or as paths, to a listing of examples."""

from __future__ import annotations

import functools
import json
from typing import Any

import pyarrow as pa

from rayft.config import ColumnsConfig
from rayft.data.cache import LocalCache
from rayft.data.callable import CallableTable
from rayft.data.columns import resolve_columns
from rayft.data.digests import digest_of_column, digest_of_files
from rayft.data.file_table import FORMATS, FileTable
from rayft.data.huggingface import names_of_classes, open_saved
from rayft.data.labels import is_list, parse_cells
from rayft.data.packed import PackedReader, pack_pictures, write_pictures
from rayft.data.reader import FileReader, Reader
from rayft.data.source import Listing, detect_format, fingerprint, table_files
from rayft.data.tables import Table
from rayft.errors import DataError
from rayft.storage import Storage


def read_files(place: str, columns: ColumnsConfig, cache: LocalCache) -> Listing:
    """List table files: one, or all of a folder in the order of their names.

    Encoded bytes are copied once into an uncompressed Arrow file of the cache, from which every process
    reads; opening the unchanged table again does not read them.

    Raises:
        DataError: An unreadable file, or missing, doubled or mistyped columns.
    """
    storage, kind = Storage.open(place), detect_format(place)
    table = FileTable(storage, table_files(storage, kind), kind, cache)
    return _list_file_table(table, _features(table.schema), columns, cache)


def read_saved(place: str, columns: ColumnsConfig, cache: LocalCache) -> Listing:
    """List a folder that ``save_to_disk`` of Hugging Face's datasets wrote."""
    table, features = open_saved(Storage.open(place), cache)
    return _list_file_table(table, features, columns, cache)


def read_callable(place: str, columns: ColumnsConfig, cache: LocalCache) -> Listing:
    """List what the function ``module:function`` gives; paths are relative to the working directory."""
    table = CallableTable(place)
    return _list_table(table, columns, cache, base=Storage.open("."), features=_features(table.schema))


def _list_file_table(table: FileTable, features: dict[str, Any], columns: ColumnsConfig, cache: LocalCache) -> Listing:
    names = table.names()
    if not names:
        raise DataError(f"{table.uri} holds no rows.", "Give a table with examples.")
    return _list_table(
        table,
        columns,
        cache,
        base=table.base,
        features=features,
        names=names,
        splits=table.splits(),
        is_text=FORMATS[table.format].is_text,
    )


def _list_table(
    table: Table,
    columns: ColumnsConfig,
    cache: LocalCache,
    *,
    base: Storage,
    features: dict[str, Any],
    names: list[str] | None = None,
    splits: pa.Array | None = None,
    is_text: bool = False,
) -> Listing:
    if not table.schema.names:
        raise DataError(f"{table.uri} holds no rows.", "Give a table with examples.")
    found = resolve_columns(table.schema, columns, table.uri)
    if found.image is not None:
        digest, small = pack_pictures(table, found.image, found.small(), cache)
        rebuild = functools.partial(write_pictures, table, found.image, found.small(), digest, cache)
        reader: Reader = PackedReader(f"{digest}.arrow", cache, rebuild)
        names = names or [f"{table.uri}#{row}" for row in range(small.num_rows)]
    else:
        small = table.read(found.small())
        paths = _paths(small, str(found.path))
        files = FileReader.of(base, paths, cache)
        reader, digest, names = files, digest_of_files(files, cache), paths.to_pylist()

    def column(name: str | None) -> pa.Array | None:
        return None if name is None else small.column(name).combine_chunks()

    labels = small.column(found.label).combine_chunks()
    if found.has_several_labels or is_text:
        labels = parse_cells(labels, several=found.has_several_labels)
    if found.has_several_labels and not is_list(labels.type):
        raise DataError(
            f"The column {found.label!r} of several labels is of type {labels.type}.",
            "Write lists, or name it data.columns.label.",
        )
    classes = _class_names(features, found.label)
    written = column(found.split) if found.split else splits
    parts = [digest_of_column(values) for values in (labels, column(found.label_name), written, column(found.group))]
    return Listing(
        names=pa.array(names, pa.string()),
        labels=labels,
        label_names=column(found.label_name),
        class_names=classes,
        splits=written,
        groups=column(found.group),
        fingerprint=fingerprint("table", digest, classes, parts),
        reader=reader,
    )


def _paths(table: pa.Table, name: str) -> pa.Array:
    paths = table.column(name).combine_chunks().cast(pa.string())
    if paths.null_count:
        row = paths.is_null().to_pylist().index(True)
        raise DataError(f"Row {row} has no path (null) in column {name!r}.", "Give each row a path, or remove it.")
    for row, path in enumerate(paths.to_pylist()):
        if "://" in path:
            raise DataError(
                f"Row {row} has the URI {path!r} in column {name!r}; paths relative to the table are allowed.",
                "Shorten the paths, and put the table beside the pictures.",
            )
    return paths


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Read the features in the metadata of a table: ours (classes, a JSON list) or Hugging Face's."""
    metadata = schema.metadata or {}
    try:
        if b"classes" in metadata:
            names = json.loads(metadata[b"classes"])
            return {column: {"names": names} for column in schema.names}
        if b"huggingface" in metadata:
            return dict(json.loads(metadata[b"huggingface"])["info"]["features"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The metadata of the table names its classes in no known way: {error!r}.", "Correct it."
        ) from None
    return {}


def _class_names(features: dict[str, Any], label: str) -> tuple[str, ...] | None:
    names = names_of_classes(features, label)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"The metadata of the table lists the classes {names!r}.", "List different strings.")
    return tuple(names)
