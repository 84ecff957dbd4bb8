"""TFRecord files of tf.Example messages."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayft.data.cache import LocalCache, stamp_of
from rayft.data.tables import ROWS_PER_BATCH, Format
from rayft.errors import DataError
from rayft.storage import Storage

# The names that converters of well-known datasets write, and what they mean here.
ALIASES = {
    "image/encoded": "image",
    "image/class/label": "label",
    "image/class/labels": "labels",
    "image/class/text": "label_name",
}
_TYPES = {"int64_list": pa.int64(), "float_list": pa.float32()}
_GZIP = b"\x1f\x8b"


def _schema(file: Storage, cache: LocalCache) -> pa.Schema:
    """Derive the columns from the first example: a feature of one value is a scalar."""
    with _examples(file, cache) as examples:
        first = next(examples, None)
    if first is None:
        return pa.schema([])
    features = dict(sorted(first.features.feature.items()))
    return pa.schema([(_name(key, features), _type(key, feature)) for key, feature in features.items()])


def _count(file: Storage, cache: LocalCache) -> int:
    with _records(file, cache) as records:
        return sum(1 for _ in records)


def _batches(file: Storage, cache: LocalCache, columns: list[str]) -> Iterator[pa.RecordBatch]:
    schema = _schema(file, cache)
    fields = [schema.field(column) for column in columns]
    with _examples(file, cache) as examples:
        for start in itertools.count(0, ROWS_PER_BATCH):
            rows = [
                _row(example, fields, start + place, file)
                for place, example in enumerate(itertools.islice(examples, ROWS_PER_BATCH))
            ]
            if not rows:
                return
            arrays = [
                pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), fields, strict=True)
            ]
            yield pa.record_batch(arrays, schema=pa.schema(fields))


def _row(example: Any, fields: list[pa.Field], row: int, file: Storage) -> list[Any]:
    features = example.features.feature
    named = {_name(key, features): key for key in features}
    return [_value(features[named[field.name]], field, row, file) if field.name in named else None for field in fields]


def _value(feature: Any, field: pa.Field, row: int, file: Storage) -> Any:
    kind = feature.WhichOneof("kind")
    values = list(getattr(feature, kind).value) if kind else []
    if pa.types.is_string(field.type) or (pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type)):
        values = [value.decode() for value in values]
    if pa.types.is_list(field.type):
        return values
    if len(values) > 1:
        raise DataError(
            f"Example {row} of {file.uri} has {len(values)} values of {field.name!r}, the first example has one.",
            "Write one value for each example, or name several labels `labels`.",
        )
    return values[0] if values else None


def _name(key: str, features: Any) -> str:
    alias = ALIASES.get(key)
    return alias if alias and alias not in features else key


def _type(key: str, feature: Any) -> pa.DataType:
    kind = feature.WhichOneof("kind") or "bytes_list"
    values = getattr(feature, kind).value
    plain = _TYPES.get(kind) or _type_of_bytes(key, values)
    return plain if len(values) == 1 and ALIASES.get(key, key) != "labels" else pa.list_(plain)


def _type_of_bytes(key: str, values: Any) -> pa.DataType:
    if ALIASES.get(key, key) == "image":
        return pa.binary()
    try:
        b"".join(values).decode()
    except UnicodeDecodeError:
        return pa.binary()
    return pa.string()


@contextlib.contextmanager
def _examples(file: Storage, cache: LocalCache) -> Iterator[Iterator[Any]]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    def parse(record: bytes) -> Any:
        try:
            return tf.train.Example.FromString(record)
        except DecodeError:
            raise DataError(f"A record of {file.uri} is no tf.Example.", "Write tf.train.Example messages.") from None

    with _records(file, cache) as records:
        yield map(parse, records)


@contextlib.contextmanager
def _records(file: Storage, cache: LocalCache) -> Iterator[Iterator[bytes]]:
    """Iterate over the records, whose checksums TensorFlow verifies; its reader needs a local file."""
    import tensorflow as tf

    info = file.filesystem.get_file_info(file.root)
    with cache.local_copy(file, stamp_of(info.size, info.mtime_ns)) as path:
        compression = "GZIP" if _starts_with(path, _GZIP) else ""
        options = tf.io.TFRecordOptions(compression_type=compression)
        # tf.data, which it recommends, would take hold of a GPU in this process.
        with _without_advice():
            records = tf.compat.v1.io.tf_record_iterator(str(path), options)
        yield _sound(records, file)


def _sound(records: Iterator[bytes], file: Storage) -> Iterator[bytes]:
    import tensorflow as tf

    for row in itertools.count():
        try:
            record = next(records, None)
        except tf.errors.OpError as error:
            raise DataError(
                f"{file.uri} is damaged after {row} records: {str(error.message).splitlines()[0]}.",
                "Give an intact TFRecord file.",
            ) from None
        if record is None:
            return
        yield record


def _starts_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


FORMATS = {"tfrecord": Format(_schema, _count, _batches)}
