"""Rows of one or several files of one format."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayft.data import table_files, text_files, tfrecord_files
from rayft.data.cache import LocalCache, stamp_of
from rayft.data.source import fingerprint
from rayft.data.split import SPLIT_NAMES
from rayft.data.tables import ROWS_PER_BATCH, collect
from rayft.errors import DataError, StorageError
from rayft.storage import Storage

FORMATS = {**table_files.FORMATS, **text_files.FORMATS, **tfrecord_files.FORMATS}


@dataclass(frozen=True)
class FileTable:
    """Files of one format, one after another.

    Attributes:
        root: The file itself, or the folder of the files.
        files: In the order of their rows.
        format: Their format, a key of ``FORMATS``.
        cache: For what can be read from a local disk alone.
    """

    root: Storage
    files: tuple[Storage, ...]
    format: str
    cache: LocalCache

    @property
    def uri(self) -> str:
        """The table as a person would write it."""
        return self.root.uri

    @property
    def base(self) -> Storage:
        """Folder that relative paths start from."""
        return self.files[0].parent if self.root.root == self.files[0].root else self.root

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """Columns of the first file."""
        file = self.files[0]
        return self._explained(file, lambda: FORMATS[self.format].schema(file, self.cache))

    @property
    def stamp(self) -> str | None:
        """Place, size and time of the files."""
        infos = self.root.filesystem.get_file_info([file.root for file in self.files])
        return fingerprint(
            [(file.uri, stamp_of(info.size, info.mtime_ns)) for file, info in zip(self.files, infos, strict=True)]
        )

    def names(self) -> list[str]:
        """Return a name for each row: file and number in it."""
        base = self.base
        return [
            f"{base.relative(file)}#{row}"
            for file, count in zip(self.files, self._counts, strict=True)
            for row in range(count)
        ]

    def splits(self) -> pa.Array | None:
        """Return the split of each row, string [n], where each file's path says it: train-0.parquet, test/1.csv."""
        first = [_first_word(self.base.relative(file)) for file in self.files]
        if "train" not in first or not all(word in SPLIT_NAMES for word in first):
            return None
        return pa.array(
            [word for word, count in zip(first, self._counts, strict=True) for _ in range(count)], pa.string()
        )

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Iterate over columns of the files, at most ``ROWS_PER_BATCH`` rows at a time."""
        for file in self.files:
            batches = iter(FORMATS[self.format].batches(file, self.cache, columns))
            while (batch := self._explained(file, functools.partial(next, batches, None))) is not None:
                for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                    yield batch.slice(start, ROWS_PER_BATCH)

    def read(self, columns: list[str]) -> pa.Table:
        """Return columns of all files as one table."""
        return collect(self.batches(columns), self.schema, columns, self.uri)

    @functools.cached_property
    def _counts(self) -> list[int]:
        count = FORMATS[self.format].count
        return [self._explained(file, functools.partial(count, file, self.cache)) for file in self.files]

    def _explained(self, file: Storage, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, KeyError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            raise DataError(f"Cannot read the table {file.uri}: {reason}.", "Give an intact file.") from None
        except OSError as error:
            raise StorageError(
                f"Cannot read {file.uri}: {error.strerror or error}.",
                "Check the path, the credentials and the network.",
            ) from None


def _first_word(path: str) -> str:
    for mark in "/.-_":
        path = path.partition(mark)[0]
    return path
