"""CSV, TSV and JSON Lines files, which name pictures by their paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
from pyarrow import csv, json

from rayft.data.cache import LocalCache
from rayft.data.tables import Format
from rayft.storage import Storage

_JSON_BLOCK_BYTES = 1 << 24  # A line must fit into a block.


def _read_separated(file: Storage, delimiter: str) -> pa.Table:
    """Read all cells as text: types guessed from the first block would fail on later ones."""
    parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with file.filesystem.open_input_stream(file.root) as stream, csv.open_csv(stream, parse_options=parsing) as reader:
        names = reader.schema.names
    conversion = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    with file.filesystem.open_input_stream(file.root) as stream:
        return csv.read_csv(stream, parse_options=parsing, convert_options=conversion)


def _read_json_lines(file: Storage) -> pa.Table:
    with file.filesystem.open_input_stream(file.root) as stream:
        return json.read_json(stream, read_options=json.ReadOptions(block_size=_JSON_BLOCK_BYTES))


def _format(read: Callable[[Storage], pa.Table], is_text: bool) -> Format:
    def batches(file: Storage, cache: LocalCache, columns: list[str]) -> Iterator[pa.RecordBatch]:
        return iter(read(file).select(columns).to_batches())

    return Format(
        schema=lambda file, cache: read(file).schema,
        count=lambda file, cache: read(file).num_rows,
        batches=batches,
        is_text=is_text,
    )


FORMATS = {
    "csv": _format(partial(_read_separated, delimiter=","), is_text=True),
    "tsv": _format(partial(_read_separated, delimiter="\t"), is_text=True),
    "jsonl": _format(_read_json_lines, is_text=False),
}
