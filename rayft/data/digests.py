"""What a dataset's fingerprint is made of: the content of columns and of files."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.data.cache import LocalCache
from rayft.data.reader import FileReader
from rayft.data.source import fingerprint
from rayft.storage import Storage


class Digest:
    """SHA-256 over byte strings, whatever batches they arrive in."""

    def __init__(self) -> None:
        self._lengths, self._content = hashlib.sha256(), hashlib.sha256()

    def update(self, values: pa.Array) -> None:
        """Add large_binary values without nulls."""
        if len(values) == 0:
            return
        _, offset_buffer, content = values.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64)[values.offset : values.offset + len(values) + 1]
        self._lengths.update(np.diff(offsets).tobytes())
        if content is not None:
            self._content.update(memoryview(content)[offsets[0] : offsets[-1]])

    def hex(self) -> str:
        """Return the digest so far."""
        return hashlib.sha256(self._lengths.digest() + self._content.digest()).hexdigest()


def digest_of_column(values: pa.Array | None) -> str | None:
    """Return the hex SHA-256 of a column's values as text; None for None."""
    if values is None:
        return None
    if pa.types.is_nested(values.type):
        values = pa.array([json.dumps(value, ensure_ascii=False) for value in values.to_pylist()], pa.string())
    digest = Digest()
    digest.update(pc.fill_null(values.cast(pa.string()), "\0null").cast(pa.large_binary()))
    return digest.hex()


def digest_of_files(reader: FileReader, cache: LocalCache) -> str:
    """Return the hex SHA-256 over the paths and the contents of files.

    They are read only where a path, size or time is new; nothing else tells that a file of the same size
    and time has changed.
    """
    stamps = list(zip(reader.paths.to_pylist(), reader.stamps.to_pylist(), strict=True))
    memo = Storage.open(cache.folder / f"{fingerprint(reader.storage.uri, stamps)}.digest")
    if memo.exists():
        return memo.read_bytes().decode()
    digest = fingerprint(list(zip(reader.paths.to_pylist(), reader.digests(), strict=True)))
    memo.write_bytes(digest.encode())
    return digest
