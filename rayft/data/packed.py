"""A table's encoded pictures in one local file, from which each can be read alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.data.cache import LocalCache
from rayft.data.digests import Digest
from rayft.data.source import fingerprint
from rayft.data.tables import Table
from rayft.errors import DataError, StorageError
from rayft.storage import Storage

_SCHEMA = pa.schema([("image", pa.large_binary())])


@dataclass(frozen=True)
class PackedReader:
    """Pictures in an uncompressed Arrow file of the cache, by row.

    Attributes:
        name: The file's name in the cache; one large_binary column.
        cache: Holds the file.
        build: Writes that file anew, where this machine does not hold it.
    """

    name: str
    cache: LocalCache
    build: Callable[[], object]

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Return the pictures of the rows, in that order."""
        path = self.cache.path(self.name)
        self.cache.touch(self.name)
        try:
            # What is open here stays readable even after it has left the cache.
            return _open(str(path)).read(rows)
        except FileNotFoundError:
            self.build()
            return _open(str(path)).read(rows)


class _PackedFile:
    """Maps the offsets, but reads the pictures: pages of a map would count as memory of the process."""

    def __init__(self, path: str) -> None:
        self._file = pa.OSFile(path)
        self._map = pa.memory_map(path)
        start = self._map.read_buffer().address
        with pa.ipc.open_file(self._map) as file:
            chunks = [file.get_batch(index).column(0) for index in range(file.num_record_batches)]
        self._places = [_places(chunk, start) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)][:-1], dtype=np.int64)

    def read(self, rows: np.ndarray) -> list[bytes]:
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        pictures = []
        for chunk, row in zip(chunks.tolist(), (rows - self._starts[chunks]).tolist(), strict=True):
            content, offsets = self._places[chunk]
            begin, end = int(offsets[row]), int(offsets[row + 1])
            pictures.append(self._file.read_at(end - begin, content + begin) if end > begin else b"")
        return pictures


def _places(chunk: pa.Array, start: int) -> tuple[int, np.ndarray]:
    """Return where the content of a batch begins in the file, and the offsets in it [n + 1]."""
    _, offsets, content = chunk.buffers()
    return (content.address - start if content else 0), np.frombuffer(offsets, np.int64)[: len(chunk) + 1]


@functools.lru_cache(maxsize=8)
def _open(path: str) -> _PackedFile:
    return _PackedFile(path)


def pack_pictures(table: Table, column: str, small: list[str], cache: LocalCache) -> tuple[str, pa.Table]:
    """Return the digest of a table's pictures and its small columns; afterwards ``<digest>.arrow`` is there.

    The pictures are read only if the table's stamp is new.
    """
    memo = None
    if table.stamp is not None:
        memo = Storage.open(cache.folder / f"{fingerprint(table.stamp, column)}.digest")
        if memo.exists():
            digest = memo.read_bytes().decode()
            if cache.path(f"{digest}.arrow").exists():
                return digest, table.read(small)
    digest, columns = write_pictures(table, column, small, None, cache)
    if memo is not None:
        memo.write_bytes(digest.encode())
    return digest, columns


def write_pictures(
    table: Table, column: str, small: list[str], expected: str | None, cache: LocalCache
) -> tuple[str, pa.Table]:
    """Copy a picture column into ``<digest>.arrow``, which appears whole or not at all.

    Args:
        table: Read once, batch by batch.
        column: Binary, or Hugging Face's struct<bytes, path>.
        small: Columns to return as they are.
        expected: Digest that the pictures must have, or None.
        cache: Receives the file.

    Returns:
        Hex SHA-256 of the pictures, and the small columns.

    Raises:
        DataError: The content has changed.
        StorageError: The cache cannot be written, or is too small.
    """
    digest, kept, written = Digest(), [], 0
    temporary = cache.temporary()
    try:
        with cache.explained(), pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            for batch in table.batches([column, *small]):
                pictures = _encoded(batch.column(0), column)
                digest.update(pictures)
                written += pictures.nbytes
                _check_room(written, cache, table)
                writer.write_batch(pa.record_batch([pictures], schema=_SCHEMA))
                kept.append(batch.select(small))
        if expected is not None and digest.hex() != expected:
            raise DataError(
                f"The pictures of {table.uri} have changed since the dataset was opened.",
                "Start again, so that all workers see the same data.",
            )
        with cache.explained():
            if not cache.admit(temporary, f"{digest.hex()}.arrow"):
                _check_room(cache.limit_bytes + 1, cache, table)
    finally:
        temporary.unlink(missing_ok=True)
    return digest.hex(), pa.Table.from_batches(kept, table.schema.empty_table().select(small).schema)


def _check_room(needed: int, cache: LocalCache, table: Table) -> None:
    if needed > cache.limit_bytes:
        raise StorageError(
            f"The pictures of {table.uri} take more than data.cache_bytes {cache.limit_bytes:,}.",
            "Raise data.cache_bytes to their size, and see that data.cache_folder has the room.",
        )


def _encoded(pictures: pa.Array, name: str) -> pa.Array:
    """Return the encoded bytes as large_binary; a null becomes an empty, hence bad, picture."""
    if pa.types.is_struct(pictures.type):
        if pictures.type.get_field_index("bytes") < 0:
            raise DataError(f"Column {name!r} is a {pictures.type} without the field bytes.", "Embed the bytes.")
        pictures = pc.struct_field(pictures, "bytes")
    return pc.fill_null(pictures.cast(pa.large_binary()), b"")
