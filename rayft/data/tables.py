"""What every kind of table offers: a schema, and its rows batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from rayft.data.cache import LocalCache
from rayft.errors import DataError
from rayft.storage import Storage

ROWS_PER_BATCH = 64  # Few enough that a batch of large pictures stays below 2 GiB, the limit of 32-bit offsets.


class Table(Protocol):
    """Rows in a fixed order; pickles without them."""

    @property
    def uri(self) -> str:
        """The table as a person would write it."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types."""
        ...

    @property
    def stamp(self) -> str | None:
        """Differs when the content may have changed; None where only reading tells."""
        ...

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Iterate over columns, at most ``ROWS_PER_BATCH`` rows at a time.

        Raises:
            DataError: The content is damaged, or lacks a column.
            StorageError: It cannot be read.
        """
        ...

    def read(self, columns: list[str]) -> pa.Table:
        """Return columns as one table; the rest is not decoded where the format allows."""
        ...


@dataclass(frozen=True)
class Format:
    """How to read one kind of table file.

    Attributes:
        schema: Of a file.
        count: Rows of a file.
        batches: Columns of a file, batch by batch; batches may be of any size.
        is_text: Whether every cell is text, so that numbers must be recognised.
    """

    schema: Callable[[Storage, LocalCache], pa.Schema]
    count: Callable[[Storage, LocalCache], int]
    batches: Callable[[Storage, LocalCache, list[str]], Iterator[pa.RecordBatch]]
    is_text: bool = False


def collect(batches: Iterator[pa.RecordBatch], schema: pa.Schema, columns: list[str], uri: str) -> pa.Table:
    """Join batches into a table.

    Raises:
        DataError: Their columns differ.
    """
    try:
        return pa.Table.from_batches(batches, schema.empty_table().select(columns).schema)
    except pa.ArrowException as error:
        raise DataError(
            f"The files of {uri} differ in their columns: {error}.", "Write all files with one schema."
        ) from None
