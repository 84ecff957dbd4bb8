"""A look at labelled pictures before anything is configured."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from rayft.config import RunConfig
from rayft.data.dataset import Dataset, open_cache, open_dataset
from rayft.data.file_table import FORMATS, FileTable
from rayft.data.scan import find_bad
from rayft.data.source import detect_format, table_files
from rayft.errors import DataError
from rayft.storage import Storage

SIZED_PICTURES = 2_000
TEST_FRACTION = 0.15
FEWEST_TO_TEST = 200
_CHUNK = 512


@dataclass(frozen=True)
class Duplicate:
    """The same file content twice, in two splits.

    Attributes:
        first: Name of the example met first.
        second: Name of the other.
        splits: Their splits, in that order.
        same_label: Whether they carry the same label.
    """

    first: str
    second: str
    splits: tuple[str, str]
    same_label: bool


@dataclass(frozen=True)
class Survey:
    """What is in a data source.

    Attributes:
        source: As the user named it.
        labels: Names of the classes.
        multi_label: Whether a picture may have several.
        sizes: Examples of each split, as the config that is written divides them.
        test_fraction: Part to set apart as the test; 0 where the source names one, or is too small.
        class_counts: Training examples of each class, in the order of ``labels``.
        median_side: Median over pictures of the shorter side, pixels.
        colourless: Whether all pictures looked at are grey.
        bad: Why each bad picture is bad, by name.
        duplicates: Pictures that occur in two splits.
        group_column: A column whose values look like identities of what is shown; None where there is none.
    """

    source: str
    labels: tuple[str, ...]
    multi_label: bool
    sizes: dict[str, int]
    test_fraction: float
    class_counts: tuple[int, ...]
    median_side: int
    colourless: bool
    bad: dict[str, str]
    duplicates: tuple[Duplicate, ...]
    group_column: str | None

    @property
    def imbalance(self) -> float:
        """Training examples of the largest class over those of the smallest."""
        return max(self.class_counts) / max(1, min(self.class_counts))


def survey(config: RunConfig, say: Callable[[str], None]) -> Survey:
    """Open the source of ``config``, decode every picture once, and describe what is there.

    Args:
        config: Names the source, and columns where they are not the usual ones.
        say: Receives a line now and then.

    Raises:
        DataError: The source cannot be read, or holds nothing to train on.
    """
    say("reading the data")
    group = _group_column(config)
    config = _grouped_by(config, group)
    dataset = open_dataset(config)
    held_out = 0.0 if dataset.size("test") or dataset.size("train") < FEWEST_TO_TEST else TEST_FRACTION
    if held_out:
        data = config.data.model_copy(update={"test_fraction": held_out})
        dataset = open_dataset(config.model_copy(update={"data": data}))
    examples = dataset.examples
    names = dict(zip(examples["row"].to_pylist(), examples["name"].to_pylist(), strict=True))
    bad = find_bad(dataset, config.data.max_pixels, say)
    sides, colourless = _sizes(dataset, bad)
    if not sides:
        raise DataError(
            f"None of the {len(names)} pictures can be decoded: {next(iter(bad.values()))}.", "Repair them."
        )
    train = dataset.targets("train")
    return Survey(
        source=config.data.source,
        labels=dataset.labels,
        multi_label=dataset.multi_label,
        sizes={split: dataset.size(split) for split in ("train", "validation", "test")},
        test_fraction=held_out,
        class_counts=tuple(int(count) for count in train.counts()),
        median_side=int(np.median(sides)),
        colourless=colourless,
        bad={names[row]: reason for row, reason in bad.items()},
        duplicates=tuple(_duplicates(dataset, say)),
        group_column=group,
    )


def _sizes(dataset: Dataset, bad: dict[int, str]) -> tuple[list[int], bool]:
    """Shorter sides of a sample of good pictures spread over the rows, and whether all of it is grey."""
    rows = [row for row in dataset.examples["row"].to_pylist() if row not in bad]
    chosen = rows[:: max(1, len(rows) // SIZED_PICTURES)]
    sides, colourless = [], True
    for start in range(0, len(chosen), _CHUNK):
        for encoded in dataset.reader.read(np.array(chosen[start : start + _CHUNK])):
            with Image.open(io.BytesIO(encoded)) as picture:
                sides.append(min(picture.size))
                colourless = colourless and picture.mode in ("1", "L", "LA", "I;16")
    return sides, colourless


def _duplicates(dataset: Dataset, say: Callable[[str], None]) -> list[Duplicate]:
    """Pairs of equal files in different splits, by digest; memory grows by 32 bytes an example."""
    examples = dataset.examples
    rows, splits = examples["row"].to_numpy(), examples["split"].to_pylist()
    labels, names = examples["label"].to_pylist(), examples["name"].to_pylist()
    met: dict[bytes, int] = {}
    pairs = []
    for start in range(0, len(rows), _CHUNK):
        for index, encoded in enumerate(dataset.reader.read(rows[start : start + _CHUNK]), start):
            first = met.setdefault(hashlib.sha256(encoded).digest(), index)
            if first != index and splits[first] != splits[index]:
                same = labels[first] == labels[index]
                pairs.append(Duplicate(names[first], names[index], (splits[first], splits[index]), same))
        if len(rows) > 10 * _CHUNK:
            say(f"compared {min(start + _CHUNK, len(rows))} of {len(rows)} pictures")
    return pairs


def _group_column(config: RunConfig) -> str | None:
    """Find a column of identities in table files: values repeat, carry one label each, and stay in one split."""
    columns, place = config.data.columns, config.data.source
    kind = detect_format(place)
    if kind not in FORMATS or columns.group is not None:
        return None
    storage = Storage.open(place)
    table = FileTable(storage, table_files(storage, kind), kind, open_cache(config.data))
    label, split = columns.label or "label", columns.split or "split"
    if label not in table.schema.names or "group" in table.schema.names:
        return None
    used = {label, split, columns.path or "path", columns.image or "image", columns.label_name or "label_name"}
    kinds = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
    others = [
        field.name for field in table.schema if field.name not in used and any(is_kind(field.type) for is_kind in kinds)
    ]
    if not others:
        return None
    rows = table.read([label, *others, *([split] if split in table.schema.names else [])])
    return next((name for name in others if _is_identity(rows, name, label, split)), None)


def _grouped_by(config: RunConfig, column: str | None) -> RunConfig:
    if column is None:
        return config
    columns = config.data.columns.model_copy(update={"group": column})
    return config.model_copy(update={"data": config.data.model_copy(update={"columns": columns})})


def _is_identity(rows: pa.Table, name: str, label: str, split: str) -> bool:
    if rows[name].null_count:
        return False
    distinct = pc.count_distinct(rows[name]).as_py()
    classes = pc.count_distinct(rows[label]).as_py()
    # Fewer values than classes, or hardly any repeated one, tell nothing about identity.
    if not classes < distinct <= 0.8 * rows.num_rows:
        return False
    parts = [label] + ([split] if split in rows.schema.names else [])
    counts = rows.group_by(name).aggregate([(part, "count_distinct") for part in parts])
    return all(pc.max(counts[f"{part}_count_distinct"]).as_py() == 1 for part in parts)
