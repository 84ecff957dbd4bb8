"""Labelled examples as Arrow, before TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.config import RunConfig
from rayft.data.folder import read_folder
from rayft.data.labels import encode_labels
from rayft.data.reader import Reader
from rayft.data.source import Source, detect_format, fingerprint
from rayft.data.split import assign_splits
from rayft.data.table import read_table
from rayft.errors import DataError
from rayft.storage import Storage

SOURCES: dict[str, Source] = {"folder": read_folder, "parquet": read_table, "arrow": read_table}


@dataclass(frozen=True)
class Dataset:
    """Labelled examples; pickles without the pictures.

    Attributes:
        examples: Columns ``row`` int64 (index in the source), ``label`` int32, ``name`` string
            (``folder/file.jpg`` or ``table.parquet#row``), ``split`` string (train, validation, test).
        labels: Name of each class.
        fingerprint: Hex SHA-256 over what the source holds.
        reader: Random access to the encoded pictures by ``row``.
    """

    examples: pa.Table
    labels: tuple[str, ...]
    fingerprint: str
    reader: Reader

    def split(self, name: str) -> pa.Table:
        """Return the examples of train, validation or test, in the order of the source."""
        return self.examples.filter(pc.equal(self.examples["split"], name))

    def size(self, name: str) -> int:
        """Return the number of examples of a split."""
        return pc.sum(pc.equal(self.examples["split"], name)).as_py() or 0


def default_cache_folder() -> Path:
    """Return the folder for what can be computed again."""
    return Path.home() / ".cache" / "rayft"


def open_dataset(config: RunConfig, cache_folder: Path | None = None) -> Dataset:
    """Open ``data.source``, number its classes and divide it into splits.

    Pictures are not decoded; ``rayft.data.scan.check_pictures`` does that.

    Args:
        config: The run.
        cache_folder: For memory-mapped copies of tables; ``~/.cache/rayft`` if not given.

    Raises:
        DataError: The source cannot be read, or cannot be trained on.
        StorageError: The source's storage cannot be reached, or the cache not written.
    """
    storage = Storage.open(config.data.source)
    source = SOURCES[detect_format(storage)]
    listing = source(storage, config.data.columns, cache_folder or default_cache_folder())
    encoded, labels = encode_labels(listing.labels, listing.label_names, listing.class_names)
    names = listing.names.to_pylist()
    if len(labels) < 2:
        raise DataError(f"All {len(names)} examples have the same label: {labels[0]!r}.", "Give at least two classes.")
    splits = assign_splits(encoded, labels, names, listing.splits, listing.groups, config.data)
    examples = pa.table(
        {
            "row": pa.array(np.arange(len(names), dtype=np.int64)),
            "label": pa.array(encoded),
            "name": listing.names,
            "split": pa.array(splits.tolist(), pa.string()),
        }
    )
    dataset = Dataset(examples, labels, listing.fingerprint, listing.reader)
    check_trainable(dataset)
    return dataset


def pictures_by_name(dataset: Dataset, names: Sequence[str]) -> list[bytes]:
    """Return the encoded pictures of examples that are called so."""
    rows = dict(zip(dataset.examples["name"].to_pylist(), dataset.examples["row"].to_pylist(), strict=True))
    return dataset.reader.read(np.array([rows[name] for name in names], np.int64))


def without_test(dataset: Dataset) -> Dataset:
    """Return the dataset without its test split; what never had the examples cannot be tuned on them."""
    return replace(dataset, examples=dataset.examples.filter(pc.not_equal(dataset.examples["split"], "test")))


def join_validation(dataset: Dataset) -> Dataset:
    """Return the dataset with the validation examples moved to train."""
    split = dataset.examples["split"]
    joined = pc.if_else(pc.equal(split, "validation"), "train", split)
    where = dataset.examples.schema.get_field_index("split")
    return replace(dataset, examples=dataset.examples.set_column(where, "split", joined))


def drop_rows(dataset: Dataset, rows: list[int]) -> Dataset:
    """Return the dataset without some rows; its fingerprint says which are gone.

    Raises:
        DataError: What is left cannot be trained on.
    """
    if not rows:
        return dataset
    keep = pc.invert(pc.is_in(dataset.examples["row"], pa.array(sorted(rows), pa.int64())))
    smaller = replace(
        dataset,
        examples=dataset.examples.filter(keep),
        fingerprint=fingerprint(dataset.fingerprint, "without", sorted(rows)),
    )
    check_trainable(smaller)
    for split in ("validation", "test"):
        if dataset.size(split) and not smaller.size(split):
            raise DataError(f"No picture of the {split} split can be used.", "Replace the bad pictures.")
    return smaller


def check_trainable(dataset: Dataset) -> None:
    """Refuse a training split that lacks a class.

    Raises:
        DataError: Names the classes.
    """
    train = dataset.split("train")
    if train.num_rows == 0:
        raise DataError("The training split is empty.", "Give examples the split train.")
    counts = np.bincount(train["label"].to_numpy(), minlength=len(dataset.labels))
    missing = [dataset.labels[label] for label in np.flatnonzero(counts == 0)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(dataset.labels)} classes have no training example: {', '.join(missing[:10])}.",
            "Add training examples of these classes, or remove the classes.",
        )
