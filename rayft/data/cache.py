"""A local copy of a table's pictures that every process can map into memory."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.data.source import fingerprint
from rayft.data.table_files import read_batches
from rayft.errors import DataError, StorageError
from rayft.storage import Storage


def cache_pictures(files: list[Storage], column: str, cache_folder: Path) -> str:
    """Return the digest of the pictures; reads them only if size or time of a file is new.

    Afterwards ``<digest>.arrow`` lies in the cache folder.
    """
    stats = [file.filesystem.get_file_info(file.root) for file in files]
    known = fingerprint([(file.uri, info.size, info.mtime_ns) for file, info in zip(files, stats, strict=True)], column)
    memo = Storage.open(cache_folder / f"{known}.digest")
    if memo.exists():
        digest = memo.read_bytes().decode()
        if (cache_folder / f"{digest}.arrow").exists():
            return digest
    digest = write_pictures(files, column, None, cache_folder)
    memo.write_bytes(digest.encode())
    return digest


def write_pictures(files: list[Storage], column: str, expected: str | None, cache_folder: Path) -> str:
    """Copy a picture column into ``<digest>.arrow``, which appears whole or not at all.

    Args:
        files: The tables.
        column: Binary, or Hugging Face's struct<bytes, path>.
        expected: Digest that the content must have, or None.
        cache_folder: Local folder; made if missing.

    Returns:
        Hex SHA-256 of the pictures.

    Raises:
        DataError: The content has changed.
        StorageError: The cache folder cannot be written.
    """
    digest = Digest()
    schema = pa.schema([("image", pa.large_binary())])
    temporary = cache_folder / f".{uuid.uuid4().hex}.tmp"
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        try:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for batch in read_batches(files, [column]):
                    pictures = _encoded(batch.column(0), column)
                    digest.update(pictures)
                    writer.write_batch(pa.record_batch([pictures], schema=schema))
            if expected is not None and digest.hex() != expected:
                raise DataError(
                    f"The pictures of {files[0].uri} have changed since the dataset was opened.",
                    "Start again, so that all workers see the same data.",
                )
            temporary.replace(cache_folder / f"{digest.hex()}.arrow")
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"Cannot write the picture cache {cache_folder}: {error.strerror or error}.",
            "Free some space, or choose another cache folder.",
        ) from None
    return digest.hex()


def _encoded(pictures: pa.Array, name: str) -> pa.Array:
    """Return the encoded bytes as large_binary; a null becomes an empty, hence bad, picture."""
    if pa.types.is_struct(pictures.type):
        if pictures.type.get_field_index("bytes") < 0:
            raise DataError(f"Column {name!r} is a {pictures.type} without the field bytes.", "Embed the bytes.")
        pictures = pc.struct_field(pictures, "bytes")
    return pc.fill_null(pictures.cast(pa.large_binary()), b"")


def digest_of_column(values: pa.Array | None) -> str | None:
    """Return the hex SHA-256 of a column's values as text; None for None."""
    if values is None:
        return None
    digest = Digest()
    digest.update(pc.fill_null(values.cast(pa.string()), "\0null").cast(pa.large_binary()))
    return digest.hex()


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
