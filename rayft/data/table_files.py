"""Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from rayft.data.cache import LocalCache
from rayft.data.tables import ROWS_PER_BATCH, Format
from rayft.storage import Storage


def _parquet_schema(file: Storage, cache: LocalCache) -> pa.Schema:
    with file.filesystem.open_input_file(file.root) as handle:
        return pq.read_schema(handle)


def _parquet_count(file: Storage, cache: LocalCache) -> int:
    with file.filesystem.open_input_file(file.root) as handle:
        return pq.read_metadata(handle).num_rows


def _parquet_batches(file: Storage, cache: LocalCache, columns: list[str]) -> Iterator[pa.RecordBatch]:
    # Without pre_buffer, which would hold whole row groups of a remote file.
    with file.filesystem.open_input_file(file.root) as handle:
        yield from (
            batch.select(columns) for batch in pq.ParquetFile(handle).iter_batches(ROWS_PER_BATCH, columns=columns)
        )


def _arrow_schema(file: Storage, cache: LocalCache) -> pa.Schema:
    with file.filesystem.open_input_file(file.root) as handle:
        is_file = handle.read(6) == b"ARROW1"
        handle.seek(0)
        return (pa.ipc.open_file(handle) if is_file else pa.ipc.open_stream(handle)).schema


def _arrow_count(file: Storage, cache: LocalCache) -> int:
    with _open(file) as handle:
        return sum(batch.num_rows for batch in _open_arrow(handle))


def _arrow_batches(file: Storage, cache: LocalCache, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with _open(file) as handle:
        yield from (batch.select(columns) for batch in _open_arrow(handle))


def _open(file: Storage) -> pa.NativeFile:
    """Map a local file, so that columns that nobody asks for are not read."""
    return pa.memory_map(file.root) if file.is_local else file.filesystem.open_input_file(file.root)


def _open_arrow(handle: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    """Iterate over either of the two Arrow IPC formats."""
    is_file = handle.read(6) == b"ARROW1"
    handle.seek(0)
    if is_file:
        reader = pa.ipc.open_file(handle)
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(pa.ipc.open_stream(handle))


FORMATS = {
    "parquet": Format(_parquet_schema, _parquet_count, _parquet_batches),
    "arrow": Format(_arrow_schema, _arrow_count, _arrow_batches),
}
