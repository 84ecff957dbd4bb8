"""Labelled examples as Arrow, before TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.config import DataConfig, RunConfig
from rayft.data.cache import LocalCache
from rayft.data.file_table import FORMATS
from rayft.data.folder import read_folder
from rayft.data.labels import encode_label_lists, encode_labels, is_list
from rayft.data.reader import Reader
from rayft.data.source import Listing, Source, detect_format, fingerprint
from rayft.data.split import assign_splits
from rayft.data.table import read_callable, read_files, read_saved
from rayft.data.target import Targets
from rayft.errors import DataError

SOURCES: dict[str, Source] = {
    "folder": read_folder,
    "huggingface": read_saved,
    "callable": read_callable,
    **dict.fromkeys(FORMATS, read_files),
}


@dataclass(frozen=True)
class Dataset:
    """Labelled examples; pickles without the pictures.

    Attributes:
        examples: Columns ``row`` int64 (index in the source), ``label`` int32 or, where pictures may have
            several, list<int32>, ``name`` string (``folder/file.jpg`` or ``table.parquet#row``), ``split``
            string (train, validation, test).
        labels: Name of each class.
        fingerprint: Hex SHA-256 over what the source holds, wherever it lies: pictures, labels, names of
            classes, splits and groups, and the names of files where they are the examples.
        reader: Random access to the encoded pictures by ``row``.
        withheld: int64, rows that were taken out of ``examples``; nothing but their pictures is known.
    """

    examples: pa.Table
    labels: tuple[str, ...]
    fingerprint: str
    reader: Reader
    withheld: pa.Int64Array = field(default_factory=lambda: pa.array([], pa.int64()))

    @property
    def pictures(self) -> np.ndarray:
        """Rows int64 [n] of all pictures, those of withheld examples too."""
        return np.concatenate([self.examples["row"].to_numpy(), self.withheld.to_numpy()])

    @property
    def multi_label(self) -> bool:
        """Whether a picture may have any number of the classes."""
        return pa.types.is_list(self.examples.schema.field("label").type)

    def targets(self, split: str) -> Targets:
        """Return what the network shall answer to each example of a split."""
        return Targets.of(self.split(split)["label"], len(self.labels))

    def split(self, name: str) -> pa.Table:
        """Return the examples of train, validation or test, in the order of the source."""
        return self.examples.filter(pc.equal(self.examples["split"], name))

    def size(self, name: str) -> int:
        """Return the number of examples of a split."""
        return pc.sum(pc.equal(self.examples["split"], name)).as_py() or 0


def default_cache_folder() -> Path:
    """Return the folder for what can be computed again."""
    return Path.home() / ".cache" / "rayft"


def open_cache(config: DataConfig, folder: Path | None = None) -> LocalCache:
    """Return the cache of a config, in ``folder`` where that is given."""
    configured = Path(config.cache_folder).expanduser().absolute() if config.cache_folder else default_cache_folder()
    return LocalCache(folder or configured, config.cache_bytes)


def open_dataset(config: RunConfig, cache_folder: Path | None = None) -> Dataset:
    """Open ``data.source``, number its classes and divide it into splits.

    Pictures are not decoded; ``rayft.data.scan.check_pictures`` does that.

    Args:
        config: The run.
        cache_folder: For copies of tables and remote pictures; that of the config if not given.

    Raises:
        DataError: The source cannot be read, or cannot be trained on.
        StorageError: The source's storage cannot be reached, or the cache not written.
    """
    place = config.data.source
    listing = SOURCES[detect_format(place)](place, config.data.columns, open_cache(config.data, cache_folder))
    names = listing.names.to_pylist()
    targets, labels = encode_targets(listing)
    if not targets.is_several and len(labels) < 2:
        raise DataError(f"All {len(names)} examples have the same label: {labels[0]!r}.", "Give at least two classes.")
    splits = assign_splits(targets, labels, names, listing.splits, listing.groups, config.data)
    examples = pa.table(
        {
            "row": pa.array(np.arange(len(names), dtype=np.int64)),
            "label": targets.column(),
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


def without_test(dataset: Dataset, *, keep_pictures: bool = True) -> Dataset:
    """Withhold the test split: what never had the examples cannot be tuned on them.

    Args:
        dataset: All examples.
        keep_pictures: Whether their pictures stay known, for caches that the test will read.
    """
    is_test = pc.equal(dataset.examples["split"], "test")
    smaller = replace(dataset, examples=dataset.examples.filter(pc.invert(is_test)))
    if not keep_pictures:
        return smaller
    return replace(smaller, withheld=dataset.examples.filter(is_test)["row"].combine_chunks())


def join_validation(dataset: Dataset) -> Dataset:
    """Return the dataset with the validation examples moved to train."""
    split = dataset.examples["split"]
    joined = pc.if_else(pc.equal(split, "validation"), "train", split)
    where = dataset.examples.schema.get_field_index("split")
    return replace(dataset, examples=dataset.examples.set_column(where, "split", joined))


def encode_targets(listing: Listing) -> tuple[Targets, tuple[str, ...]]:
    """Number the classes of a source; returns the targets of its examples, and the name of each class.

    Raises:
        DataError: Labels are missing, or are none.
    """
    if is_list(listing.labels.type):
        lists, labels = encode_label_lists(listing.labels, listing.class_names)
        return Targets.of(pa.chunked_array([lists]), len(labels)), labels
    encoded, labels = encode_labels(listing.labels, listing.label_names, listing.class_names)
    return Targets(encoded, None, len(labels)), labels


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
    missing = [dataset.labels[label] for label in np.flatnonzero(dataset.targets("train").counts() == 0)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(dataset.labels)} classes have no training example: {', '.join(missing[:10])}.",
            "Add training examples of these classes, or remove the classes.",
        )
