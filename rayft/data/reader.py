"""Random access to encoded pictures."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from rayft.errors import DataError, StorageError
from rayft.storage import Storage

_REMOTE_READS = 16  # Requests under way at once; an object store answers each in tens of milliseconds.


class Reader(Protocol):
    """Reads encoded pictures by row; pickles to a few bytes for each example at most."""

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Return the encoded pictures of the rows int64 [n], in that order.

        Raises:
            DataError: A picture cannot be read; names it.
        """
        ...


@dataclass(frozen=True)
class FileReader:
    """Pictures that are files of their own; a row is an index into ``paths``.

    Attributes:
        storage: The folder that the paths start from.
        paths: string [n], relative to the storage.
    """

    storage: Storage
    paths: pa.Array

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Return the content of the files of the rows, in that order."""
        paths = [self.paths[int(row)].as_py() for row in rows]
        if self.storage.is_local:
            return [self._read_one(path) for path in paths]
        with ThreadPoolExecutor(_REMOTE_READS) as pool:
            return list(pool.map(self._read_one, paths))

    def _read_one(self, path: str) -> bytes:
        try:
            if self.storage.is_local:
                with open(os.path.join(self.storage.root, path), "rb") as file:
                    return file.read()
            return (self.storage / path).read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"Cannot read {path}: {reason}.", "Restore the file, or remove its example.") from None
        except StorageError as error:
            raise DataError(error.args[0], error.args[1]) from None


@dataclass(frozen=True)
class MappedReader:
    """Pictures in one Arrow IPC file that all processes of a machine map into memory.

    Attributes:
        cache_file: Local path of the file; one large_binary column.
        build: Writes that file anew, where this machine does not hold it yet.
    """

    cache_file: str
    build: Callable[[], object]

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Return the pictures of the rows, in that order."""
        if not os.path.exists(self.cache_file):
            self.build()
        chunks, starts = _map_chunks(self.cache_file)
        where = np.searchsorted(starts, rows, side="right") - 1
        return [
            chunks[chunk][int(row - starts[chunk])].as_py() for chunk, row in zip(where.tolist(), rows, strict=True)
        ]


@functools.lru_cache(maxsize=8)
def _map_chunks(path: str) -> tuple[list[pa.Array], np.ndarray]:
    """Map the file; return its batches, and the row at which each starts."""
    with pa.ipc.open_file(pa.memory_map(path)) as file:
        chunks = [file.get_batch(index).column(0) for index in range(file.num_record_batches)]
    lengths = [len(chunk) for chunk in chunks]
    return chunks, np.cumsum([0, *lengths[:-1]], dtype=np.int64)
