"""Pictures without labels: files, folders of them, and tables."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayft.data.cache import cache_pictures, write_pictures
from rayft.data.reader import FileReader, MappedReader, Reader
from rayft.data.source import format_of
from rayft.data.table_files import count_rows, read_columns, read_schema, table_files
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
    names: list[pa.Array] = []
    readers: list[Reader] = []
    for place in places:
        part, reader = _open(Storage.open(place), place, cache_folder)
        names.append(part)
        readers.append(reader)
    lengths = [len(part) for part in names]
    return Inputs(pa.concat_arrays(names), tuple(readers), np.cumsum([0, *lengths[:-1]], dtype=np.int64))


def _open(storage: Storage, place: str, cache_folder: Path) -> tuple[pa.Array, Reader]:
    if not storage.is_folder():
        if format_of(storage.name):
            if not storage.exists():
                raise DataError(f"There is no table {place!r}.", "Check the path.")
            return _table(storage, place, cache_folder)
        return pa.array([place], pa.string()), FileReader(storage.parent, pa.array([storage.name], pa.string()))
    paths = [storage.relative(info) for info in storage.walk()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.split("/"))]
    pictures = [path for path in paths if path.lower().endswith(PICTURE_SUFFIXES)]
    if pictures:
        shown = [f"{place.rstrip('/')}/{path}" for path in pictures]
        return pa.array(shown, pa.string()), FileReader(storage, pa.array(pictures, pa.string()))
    if any(format_of(path) for path in paths):
        return _table(storage, place, cache_folder)
    raise DataError(
        f"The folder {place!r} holds no picture ({', '.join(PICTURE_SUFFIXES)}) and no table.",
        "Name pictures, or another folder.",
    )


def _table(storage: Storage, place: str, cache_folder: Path) -> tuple[pa.Array, Reader]:
    files = table_files(storage)
    schema = read_schema(files[0])
    column = next((name for name in _COLUMNS if name in schema.names), None)
    if column is None:
        raise DataError(
            f"The table {place!r} has the columns {', '.join(schema.names)}.", "Name one image (encoded) or path."
        )
    base = storage if storage.is_folder() else storage.parent
    if column == "path":
        paths = read_columns(files, [column]).column(0).combine_chunks().cast(pa.string())
        return paths, FileReader(base, paths)
    digest = cache_pictures(files, column, cache_folder)
    rebuild = functools.partial(write_pictures, files, column, digest, cache_folder)
    names = [f"{base.relative(file)}#{row}" for file in files for row in range(count_rows(file))]
    return pa.array(names, pa.string()), MappedReader(str(cache_folder / f"{digest}.arrow"), rebuild)
