"""A package measured on labelled examples, without Ray."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from rayft.config import ColumnsConfig, RunConfig, parse_config, with_overrides
from rayft.data.dataset import SOURCES, Dataset, encode_targets, open_cache, pictures_by_name
from rayft.data.evaluation_batches import evaluation_batches
from rayft.data.labels import is_list
from rayft.data.source import detect_format
from rayft.data.split import assign_splits
from rayft.data.undecodable import find_undecodable
from rayft.errors import ConfigError, DataError, PackageError
from rayft.evaluation.answers import Answers
from rayft.evaluation.measure import wilson
from rayft.evaluation.predictions import read_predictions, write_predictions
from rayft.evaluation.set_predictions import read_sets, write_sets
from rayft.learn.final import PREDICTIONS, read_labels, split_metrics
from rayft.quiet import native_start_up
from rayft.report.answered import Answered
from rayft.report.evaluation import evaluation_page
from rayft.report.sections import show_answers
from rayft.report.set_sections import show_sets
from rayft.serve.predictor import Predictor, load
from rayft.storage import Storage

ALL = "all"
SPLITS = (ALL, "train", "validation", "test")
_BATCH = 32
_NAMED = 10


def evaluate(
    model: str | PathLike[str],
    data: str | PathLike[str],
    *,
    split: str | None = None,
    output: str | PathLike[str] | None = None,
    overrides: tuple[str, ...] = (),
    registry: str | PathLike[str] | None = None,
    on_progress: Callable[[dict[str, Any]], None] = lambda state: None,
) -> dict[str, Any]:
    """Return the metrics of a package on labelled examples.

    Columns, fractions and seed of the splits are those that the network was trained with, so that
    ``validation`` of the training source is what training validated on.

    Args:
        model: As of ``rayft.api.load``.
        data: Any source that ``data.source`` allows; labels are matched by name.
        split: all, train, validation or test; test where the data names it, else all, if not given.
        output: Folder that receives ``predictions.arrow``, ``metrics.json`` and ``report.html``.
        overrides: ``data.field=value``.
        registry: As of ``rayft.api.load``.
        on_progress: Receives the phase.

    Returns:
        model, data, split, examples, metrics (of the probabilities before temperature scaling, as in training),
        accuracy_interval (95 %, Wilson), temperature, calibrated (log_loss and ece after it).

    Raises:
        RayftError: Package, data or output are not fit for it; names unknown labels.
    """
    if split is not None and split not in SPLITS:
        raise ConfigError(f"The split is {split!r}; {', '.join(SPLITS)} are allowed.", "Choose one of these.")
    target = None if output is None else Storage.open(output)
    if target is not None:
        target.check_writable()
    on_progress({"phase": "loading the package"})
    with native_start_up():
        predictor = load(model, registry)
    config = _config(predictor, fspath(data), overrides)
    on_progress({"phase": "reading the data"})
    dataset, chosen = open_labelled(config, predictor.labels, split, multi_label=predictor.multi_label)
    with tempfile.TemporaryDirectory(prefix="rayft-evaluate-") as scratch:
        answers = _answer(predictor, config, dataset, chosen, Path(scratch), on_progress)
        result = _measure(answers, predictor.temperature) | {"model": fspath(model), "data": fspath(data)}
        if target is not None:
            folder = Path(scratch) / "written"
            folder.mkdir()
            write = write_sets if predictor.multi_label else write_predictions
            write(folder / PREDICTIONS, [answers], predictor.labels, predictor.temperature)
            (folder / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
            page = evaluation_page(result, predictor.record, _shown(folder, predictor, dataset))
            (folder / "report.html").write_text(page, encoding="utf-8")
            target.upload_folder(folder)
    return result


def _shown(folder: Path, predictor: Predictor, dataset: Dataset) -> Answered:
    calibration = predictor.record.get("calibration", {})
    pictures = partial(pictures_by_name, dataset)
    if predictor.multi_label:
        return show_sets(read_sets(folder / PREDICTIONS), calibration, pictures)
    return show_answers(read_predictions(folder / PREDICTIONS), calibration, pictures)


def open_labelled(
    config: RunConfig, labels: tuple[str, ...], split: str | None, *, multi_label: bool = False
) -> tuple[Dataset, str]:
    """Open the examples of ``data.source`` whose labels are among ``labels``.

    Args:
        config: Names source, columns and the drawing of splits.
        labels: Of the package, in the order of its outputs.
        split: As of ``evaluate``.
        multi_label: Whether the package answers with several labels.

    Returns:
        The examples of the split, numbered as the package numbers them, and the name of the split.

    Raises:
        DataError: The source cannot be read, holds other labels or another kind of them, or lacks the split.
    """
    storage = Storage.open(config.data.source)
    kind = detect_format(config.data.source)
    columns = ColumnsConfig() if kind == "folder" else config.data.columns
    listing = SOURCES[kind](config.data.source, columns, open_cache(config.data))
    several = is_list(listing.labels.type)
    if several != multi_label:
        kinds = ("one label", "several labels")
        raise DataError(
            f"{storage.uri} has {kinds[several]} for a picture; the package answers with {kinds[multi_label]}.",
            "Give a column `labels` with the list of each picture's labels."
            if multi_label
            else "Evaluate on one label for each picture.",
        )
    targets, found = encode_targets(listing)
    renumbered = replace(targets, numbers=_match(targets.numbers, found, labels), classes=len(labels))
    names = listing.names.to_pylist()
    splits = np.full(len(names), ALL, dtype=object)
    has_test = listing.splits is not None and "test" in listing.splits.cast(pa.string()).to_pylist()
    chosen = split or ("test" if has_test else ALL)
    if chosen != ALL:
        splits = assign_splits(targets, found, names, listing.splits, listing.groups, config.data)
    kept = np.flatnonzero(splits == chosen)
    if not kept.size:
        raise DataError(f"{storage.uri} has no {chosen} split.", "Choose another --split; all takes every example.")
    examples = pa.table(
        {
            "row": pa.array(kept.astype(np.int64)),
            "label": renumbered.column().take(pa.array(kept)),
            "name": listing.names.take(pa.array(kept)),
            "split": pa.array([chosen] * len(kept), pa.string()),
        }
    )
    return Dataset(examples, labels, listing.fingerprint, listing.reader), chosen


def _match(encoded: np.ndarray, found: tuple[str, ...], labels: tuple[str, ...]) -> np.ndarray:
    """Renumber classes by name, int32, as many as are given."""
    known = {name: number for number, name in enumerate(labels)}
    present = [found[number] for number in np.unique(encoded)]
    unknown = [name for name in present if name not in known]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise DataError(
            f"The data has labels that the package does not know: {', '.join(map(repr, unknown[:_NAMED]))}{more}; "
            f"it knows {', '.join(map(repr, labels[:_NAMED]))}{' ...' if len(labels) > _NAMED else ''}.",
            "Rename these labels, or leave their examples out.",
        )
    return np.array([known.get(name, -1) for name in found], np.int32)[encoded]


def _config(predictor: Predictor, data: str, overrides: tuple[str, ...]) -> RunConfig:
    foreign = [item for item in overrides if not item.strip().startswith("data.")]
    if foreign:
        raise ConfigError(f"--set got {foreign[0]!r}; here only data.* is allowed.", "Example: data.columns.label=kind")
    try:
        trained = predictor.record["lineage"]["config"]
        return parse_config(with_overrides({**trained, "data": {**trained["data"], "source": data}}, overrides))
    except (KeyError, TypeError) as error:
        raise PackageError(
            f"The package {predictor.record.get('name')!r} does not say how it was trained: {error!r}.",
            "Write the package anew.",
        ) from None


def _answer(
    predictor: Predictor,
    config: RunConfig,
    dataset: Dataset,
    split: str,
    scratch: Path,
    on_progress: Callable[[dict[str, Any]], None],
) -> Answers:
    examples = dataset.split(split)
    count = examples.num_rows
    batches = evaluation_batches(dataset, config, predictor.image_size, split, rank=0, num_workers=1, batch_size=_BATCH)
    out = np.lib.format.open_memmap(scratch / "logits.npy", "w+", np.float32, (count, len(predictor.labels)))
    on_progress({"phase": f"answering {count:,} examples"})
    try:
        for start, batch in zip(range(0, count, _BATCH), batches, strict=True):
            stop = min(start + _BATCH, count)
            out[start:stop] = predictor.logits(batch["image"].numpy())[: stop - start]
    except tf.errors.InvalidArgumentError as error:
        bad = find_undecodable(dataset, np.arange(count), split)
        if not bad:
            raise
        raise DataError(
            f"{len(bad)} pictures cannot be decoded: {', '.join(bad[:_NAMED])}.", "Repair or remove them."
        ) from error
    return Answers(split, examples["name"].combine_chunks(), read_labels(dataset, split, scratch), out)


def _measure(answers: Answers, temperature: float) -> dict[str, Any]:
    metrics, scaled = split_metrics(answers), split_metrics(answers, temperature)
    count = len(answers.labels)
    return {
        "split": answers.split,
        "examples": count,
        "metrics": metrics,
        "accuracy_interval": list(wilson(round(metrics["accuracy"] * count), count)),
        "temperature": temperature,
        "calibrated": {name: scaled[name] for name in ("log_loss", "ece")},
    }
