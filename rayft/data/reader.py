"""Random access to pictures that are files of their own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from rayft.data.cache import LocalCache, stamp_of
from rayft.errors import DataError, StorageError
from rayft.storage import Storage

_REMOTE_READS = 16  # Requests under way at once; an object store answers each in tens of milliseconds.
_LOCAL_READS = 4
_CHUNK = 256


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

    Remote files are read through the cache.

    Attributes:
        storage: The folder that the paths start from.
        paths: string [n], relative to the storage; on a local disk they may be absolute.
        cache: Keeps remote files.
        stamps: string [n]; differs between states of a file.
    """

    storage: Storage
    paths: pa.Array
    cache: LocalCache
    stamps: pa.Array

    @classmethod
    def of(cls, storage: Storage, paths: pa.Array, cache: LocalCache) -> FileReader:
        """Look at the size and time of each file; one that is missing is found when it is read."""
        places = [place_of(storage, path).root for path in paths.to_pylist()]
        infos = storage.filesystem.get_file_info(places)
        return cls(storage, paths, cache, pa.array([stamp_of(info.size, info.mtime_ns) for info in infos], pa.string()))

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Return the content of the files of the rows, in that order."""
        if self.storage.is_local:
            return [self._read_one(int(row)) for row in rows]
        with ThreadPoolExecutor(_REMOTE_READS) as pool:
            return list(pool.map(self._read_one, rows.tolist()))

    def digests(self) -> list[str]:
        """Return the hex SHA-256 of each file, or ``missing`` where it cannot be read."""
        with ThreadPoolExecutor(_LOCAL_READS if self.storage.is_local else _REMOTE_READS) as pool:
            return [digest for rows in self._chunks() for digest in pool.map(self._digest, rows)]

    def _chunks(self) -> Iterator[range]:
        # map would submit a task for each file at once.
        for start in range(0, len(self.paths), _CHUNK):
            yield range(start, min(start + _CHUNK, len(self.paths)))

    def _digest(self, row: int) -> str:
        try:
            return hashlib.sha256(self._read_one(row)).hexdigest()
        except DataError:
            return "missing"

    def _read_one(self, row: int) -> bytes:
        path = self.paths[row].as_py()
        try:
            if self.storage.is_local:
                with open(os.path.join(self.storage.root, path), "rb") as file:
                    return file.read()
            return self.cache.read(self.storage / path, self.stamps[row].as_py())
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"Cannot read {path}: {reason}.", "Restore the file, or remove its example.") from None
        except StorageError as error:
            raise DataError(error.args[0], error.args[1]) from None


def place_of(storage: Storage, path: str) -> Storage:
    """Return where a path that starts from ``storage`` leads."""
    if storage.is_local:
        return Storage.open(os.path.join(storage.root, path))
    return storage / path
