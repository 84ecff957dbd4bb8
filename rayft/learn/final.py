"""The last evaluation of a run: every example of validation and test, and the temperature."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rayft.data.dataset import Dataset
from rayft.evaluation.answers import Answers, slices
from rayft.evaluation.calibration import fit_temperature
from rayft.evaluation.predictions import write_predictions
from rayft.evaluation.set_predictions import write_sets
from rayft.learn import metrics, multi_label
from rayft.learn.gather import make_gather
from rayft.learn.step import Task
from rayft.storage import Storage

SPLITS = ("validation", "test")
PREDICTIONS = "predictions.arrow"


@dataclass(frozen=True)
class FinalEvaluation:
    """What the chief learns from the last evaluation.

    Attributes:
        metrics: Of each split that is not empty, of the probabilities before temperature scaling.
        calibration: temperature, reason (why it is 1, or None), and log_loss and ece before and after, with
            the split as prefix where it is not validation.
    """

    metrics: dict[str, dict[str, float]]
    calibration: dict[str, Any]


def evaluate_finally(
    task: Task,
    dataset: Dataset,
    batches: Callable[[str], tf.data.Dataset],
    folder: Storage,
    *,
    rank: int,
    alive: Callable[[], None],
) -> FinalEvaluation | None:
    """Answer every example of validation and test, fit the temperature, write the predictions; a collective.

    Args:
        task: Holds the weights to evaluate.
        dataset: The examples.
        batches: Gives this replica's share of a split, as ``evaluation_batches`` does.
        folder: Receives ``predictions.arrow``.
        rank: This process; 0 gathers and writes.
        alive: Called whenever something was got done.

    Returns:
        On the chief; None on the others.
    """
    gather = make_gather(task, rank=rank, alive=alive)
    dtype = np.dtype(task.network.model.outputs[0].dtype)
    found: list[Answers] = []
    with tempfile.TemporaryDirectory(prefix="rayft-logits-") as scratch:
        for split in SPLITS:
            examples = dataset.split(split)
            if examples.num_rows == 0:
                continue
            out = None
            if rank == 0:
                shape = (examples.num_rows, len(dataset.labels))
                # Mapped from a file, so that the logits of a large split need no memory.
                out = np.lib.format.open_memmap(Path(scratch) / f"{split}.npy", "w+", dtype, shape)
            # Barrier: every replica takes part in each batch.
            gather(batches(split), out, examples.num_rows)
            if out is not None:
                names = examples["name"].combine_chunks()
                found.append(Answers(split, names, read_labels(dataset, split, Path(scratch)), out))
        if rank != 0:
            return None
        result = measure(found)
        local = Path(scratch) / "written"
        local.mkdir()
        write = write_sets if dataset.multi_label else write_predictions
        write(local / PREDICTIONS, found, dataset.labels, result.calibration["temperature"])
        alive()
        folder.upload_folder(local)
    return result


def read_labels(dataset: Dataset, split: str, scratch: Path) -> np.ndarray:
    """Return the labels of a split as ``Answers`` holds them; several a picture are mapped from a file."""
    targets = dataset.targets(split)
    if not dataset.multi_label:
        return targets.numbers
    labels = np.lib.format.open_memmap(scratch / f"{split}-labels.npy", "w+", bool, (len(targets), targets.classes))
    for rows in slices(len(targets)):
        labels[rows] = targets.take(np.arange(rows.start, rows.stop))
    return labels


def measure(found: list[Answers]) -> FinalEvaluation:
    """Fit the temperature on validation, and measure every split before and after it."""
    validation = next((answers for answers in found if answers.split == "validation"), None)
    temperature, reason = 1.0, None
    if validation is None:
        reason = "there is no validation split to fit it on"
    else:
        fitted = fit_temperature(validation.logits, validation.labels)
        reason = "every answer on validation is right, so that none is best" if fitted is None else None
        temperature = 1.0 if fitted is None else fitted
    plain = {answers.split: split_metrics(answers) for answers in found}
    calibration: dict[str, Any] = {"temperature": temperature, "reason": reason, "before": {}, "after": {}}
    for answers in found:
        prefix = "" if answers.split == "validation" else f"{answers.split}_"
        scaled = split_metrics(answers, temperature)
        for name in ("log_loss", "ece"):
            calibration["before"][prefix + name] = plain[answers.split][name]
            calibration["after"][prefix + name] = scaled[name]
    return FinalEvaluation(plain, calibration)


def split_metrics(answers: Answers, temperature: float = 1.0) -> dict[str, float]:
    """Return the metrics of training, of the probabilities at a temperature."""
    classes = answers.logits.shape[1]
    kind, dtype = (multi_label, tf.float64) if answers.labels.ndim == 2 else (metrics, tf.int32)
    sums = np.zeros(kind.sums_size(classes))
    for rows in slices(len(answers.labels)):
        labels = tf.cast(answers.labels[rows], dtype)
        scaled = tf.constant(answers.logits[rows].astype(np.float64) / temperature)
        sums = sums + kind.metric_sums(labels, scaled, tf.ones(len(labels), tf.float64)).numpy()
    return kind.metrics_from_sums(sums, classes)
