"""Parquet and Arrow files, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from rayft.data.source import format_of
from rayft.errors import DataError
from rayft.storage import Storage

_ROWS_PER_BATCH = 64  # Few enough that a batch of large pictures stays below 2 GiB, the limit of 32-bit offsets.


def table_files(storage: Storage) -> list[Storage]:
    """Return the table files at a path, sorted; hidden files are ignored."""
    if not storage.is_folder():
        return [storage]
    paths = [storage.relative(info) for info in storage.walk()]
    paths = [path for path in paths if format_of(path) and not any(part.startswith(".") for part in path.split("/"))]
    formats = {format_of(path) for path in paths}
    if len(formats) > 1:
        raise DataError(f"{storage.uri} mixes {' and '.join(sorted(map(str, formats)))} files.", "Keep one format.")
    return [storage / path for path in paths]


def read_schema(file: Storage) -> pa.Schema:
    """Return the schema of a file."""
    try:
        with file.filesystem.open_input_file(file.root) as handle:
            if format_of(file.name) == "parquet":
                return pq.read_schema(handle)
            is_file = handle.read(6) == b"ARROW1"
            handle.seek(0)
            return (pa.ipc.open_file(handle) if is_file else pa.ipc.open_stream(handle)).schema
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def count_rows(file: Storage) -> int:
    """Return the number of rows of a file."""
    with file.filesystem.open_input_file(file.root) as handle:
        if format_of(file.name) == "parquet":
            return pq.read_metadata(handle).num_rows
        return sum(batch.num_rows for batch in _open_arrow(handle))


def read_batches(files: list[Storage], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Iterate over columns of the files, at most 64 rows at a time.

    Raises:
        DataError: A file is damaged or lacks a column.
    """
    for file in files:
        try:
            with file.filesystem.open_input_file(file.root) as handle:
                if format_of(file.name) == "parquet":
                    yield from pq.ParquetFile(handle).iter_batches(_ROWS_PER_BATCH, columns=columns)
                else:
                    for batch in _open_arrow(handle):
                        for start in range(0, batch.num_rows, _ROWS_PER_BATCH):
                            yield batch.select(columns).slice(start, _ROWS_PER_BATCH)
        except (pa.ArrowException, KeyError) as error:
            raise _unreadable(file, error) from None


def read_columns(files: list[Storage], columns: list[str]) -> pa.Table:
    """Return columns of all files as one table; the rest is not decoded where the format allows."""
    try:
        return pa.Table.from_batches(
            read_batches(files, columns), read_schema(files[0]).empty_table().select(columns).schema
        )
    except pa.ArrowException as error:
        raise DataError(
            f"The files of {files[0].uri} differ in their columns: {error}.", "Write all files with one schema."
        ) from None


def _open_arrow(handle: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """Iterate over either of the two Arrow IPC formats."""
    if handle.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(handle)
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    handle.seek(0)
    return iter(pa.ipc.open_stream(handle))


def _unreadable(file: Storage, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [""])[0].rstrip(".")
    return DataError(f"Cannot read the table {file.uri}: {reason}.", "Give an intact Parquet or Arrow file.")
