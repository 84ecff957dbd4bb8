"""Pictures without labels: files, folders of them, and tables."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayft.config import DataConfig
from rayft.data.cache import LocalCache
from rayft.data.file_table import FileTable
from rayft.data.packed import PackedReader, pack_pictures, write_pictures
from rayft.data.reader import FileReader, Reader
from rayft.data.source import format_of, table_files
from rayft.errors import DataError
from rayft.storage import Storage

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
_COLUMNS = ("image", "path")


@dataclass(frozen=True)
class Inputs:
    """Pictures to answer, in order; pickles without them.

    Attributes:
        names: What to call each, string [n].
        readers: One for each place that was named.
        starts: First row of each reader, int64.
    """

    names: pa.Array
    readers: tuple[Reader, ...]
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> bytes:
        """Return an encoded picture.

        Raises:
            DataError: It cannot be read; names it.
        """
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        (content,) = self.readers[part].read(np.array([row - self.starts[part]]))
        return content


def open_inputs(places: Sequence[str], cache_folder: Path) -> Inputs:
    """List the pictures at local paths or URIs; none is read.

    A file ending in .parquet, .arrow and the like is a table with a column ``image`` (encoded) or ``path``; any
    other file is a picture. Of a folder, the pictures below it count, or its tables where it has no pictures.

    Raises:
        DataError: A folder or table does not exist, or holds no picture; a missing picture is found when it is read.
    """
    cache = LocalCache(cache_folder, DataConfig.model_fields["cache_bytes"].default)
    names: list[pa.Array] = []
    readers: list[Reader] = []
    for place in places:
        part, reader = _open(Storage.open(place), place, cache)
        names.append(part)
        readers.append(reader)
    lengths = [len(part) for part in names]
    return Inputs(pa.concat_arrays(names), tuple(readers), np.cumsum([0, *lengths[:-1]], dtype=np.int64))


def _open(storage: Storage, place: str, cache: LocalCache) -> tuple[pa.Array, Reader]:
    if not storage.is_folder():
        if format_of(storage.name):
            if not storage.exists():
                raise DataError(f"There is no table {place!r}.", "Check the path.")
            return _table(storage, place, cache)
        return pa.array([place], pa.string()), FileReader.of(
            storage.parent, pa.array([storage.name], pa.string()), cache
        )
    paths = [storage.relative(info) for info in storage.walk()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.split("/"))]
    pictures = [path for path in paths if path.lower().endswith(PICTURE_SUFFIXES)]
    if pictures:
        shown = [f"{place.rstrip('/')}/{path}" for path in pictures]
        return pa.array(shown, pa.string()), FileReader.of(storage, pa.array(pictures, pa.string()), cache)
    if any(format_of(path) for path in paths):
        return _table(storage, place, cache)
    raise DataError(
        f"The folder {place!r} holds no picture ({', '.join(PICTURE_SUFFIXES)}) and no table.",
        "Name pictures, or another folder.",
    )


def _table(storage: Storage, place: str, cache: LocalCache) -> tuple[pa.Array, Reader]:
    name = (
        storage.name if not storage.is_folder() else next(info.path for info in storage.walk() if format_of(info.path))
    )
    kind = str(format_of(name))
    table = FileTable(storage, table_files(storage, kind), kind, cache)
    names = table.schema.names
    column = next((name for name in _COLUMNS if name in names), None)
    if column is None:
        raise DataError(f"The table {place!r} has the columns {', '.join(names)}.", "Name one image (encoded) or path.")
    if column == "path" or pa.types.is_string(table.schema.field(column).type):
        paths = table.read([column]).column(0).combine_chunks().cast(pa.string())
        return paths, FileReader.of(table.base, paths, cache)
    digest, _ = pack_pictures(table, column, [], cache)
    rebuild = functools.partial(write_pictures, table, column, [], digest, cache)
    return pa.array(table.names(), pa.string()), PackedReader(f"{digest}.arrow", cache, rebuild)
