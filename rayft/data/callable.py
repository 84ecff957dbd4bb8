"""A Python function of the user's own that gives the examples."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayft.data.tables import ROWS_PER_BATCH, collect
from rayft.errors import DataError, RayftError
from rayft.imports import last_place, load_object


@dataclass(frozen=True)
class CallableTable:
    """What ``module:function`` returns or yields, called without arguments.

    It may give dicts, one a row, a pyarrow Table, or RecordBatches. It is called more than once, on other
    machines too, and must give the same rows each time.

    Attributes:
        path: ``module:function``.
    """

    path: str

    @property
    def uri(self) -> str:
        """The import path."""
        return self.path

    @property
    def stamp(self) -> None:
        """Nothing but the rows tells whether they have changed."""
        return None

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """Columns of the first batch."""
        first = next(self._raw_batches(), None)
        return pa.schema([]) if first is None else first.schema

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Iterate over columns, at most ``ROWS_PER_BATCH`` rows at a time."""
        for batch in self._raw_batches():
            for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                yield batch.select(columns).slice(start, ROWS_PER_BATCH)

    def read(self, columns: list[str]) -> pa.Table:
        """Return columns as one table."""
        return collect(self.batches(columns), self.schema, columns, self.path)

    def _raw_batches(self) -> Iterator[pa.RecordBatch]:
        given = self._guarded(load_object(self.path, purpose="data.source"))
        if isinstance(given, pa.Table):
            yield from given.to_batches()
            return
        if isinstance(given, (str, bytes, dict)) or not isinstance(given, Iterable):
            raise DataError(
                f"data.source {self.path!r} gave {type(given).__name__}; dicts, a pyarrow Table or RecordBatches are "
                "allowed.",
                "Yield one dict for each example.",
            )
        yield from self._batches_of(iter(given))

    def _batches_of(self, items: Iterator[Any]) -> Iterator[pa.RecordBatch]:
        schema = None
        for start in itertools.count(0, ROWS_PER_BATCH):
            chunk = self._guarded(lambda: list(itertools.islice(items, ROWS_PER_BATCH)))
            if not chunk:
                return
            if isinstance(chunk[0], pa.RecordBatch):
                yield from chunk
                continue
            batch = self._batch_of(chunk, schema, start)
            schema = batch.schema
            yield batch

    def _batch_of(self, rows: list[Any], schema: pa.Schema | None, start: int) -> pa.RecordBatch:
        for row, content in enumerate(rows, start):
            if not isinstance(content, dict):
                raise DataError(
                    f"data.source {self.path!r} gave {type(content).__name__} as row {row}; a dict is allowed.",
                    "Yield one dict for each example.",
                )
            if schema is not None and (unknown := set(content) - set(schema.names)):
                raise DataError(
                    f"Row {row} of {self.path!r} has {sorted(unknown)}, which the first rows lack.",
                    "Give every row the same keys.",
                )
        try:
            return pa.RecordBatch.from_pylist(rows, schema=schema)
        except (pa.ArrowException, TypeError) as error:
            raise DataError(
                f"Rows {start} to {start + len(rows) - 1} of {self.path!r} do not make columns: {error}.",
                "Give a key values of one type in all rows; a picture is the bytes of its file.",
            ) from None

    def _guarded(self, call: Any) -> Any:
        try:
            return call()
        except RayftError:
            raise
        # It is the user's own code, which may raise anything.
        except Exception as error:
            raise DataError(
                f"data.source {self.path!r} failed: {last_place(error)}.", "Mend that line, then run it again."
            ) from error
