"""The answers to every example of a split, as a file that is read in parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayft.errors import DataError
from rayft.evaluation.answers import Answers, slices
from rayft.evaluation.calibration import log_probabilities


def write_predictions(path: Path, answers: Sequence[Answers], classes: tuple[str, ...], temperature: float) -> None:
    """Write an Arrow IPC file, a row for each example.

    Columns: split, name, label, prediction (strings), probability float32 (of the prediction),
    probabilities fixed-size list of float32 (one a class, as the Predictor gives them: after temperature
    scaling), loss float32 (-log of the label's probability, nats). The schema's metadata hold ``classes``
    (a JSON list) and ``temperature``; p^T, normalised, are the probabilities before scaling.
    """
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [
            ("split", pa.string()),
            ("name", pa.string()),
            ("label", kind),
            ("prediction", kind),
            ("probability", pa.float32()),
            ("probabilities", pa.list_(pa.float32(), len(classes))),
            ("loss", pa.float32()),
        ],
        metadata={"classes": json.dumps(classes), "temperature": repr(float(temperature))},
    )
    dictionary = pa.array(classes, pa.string())

    def named(numbers: np.ndarray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), dictionary)

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for answer in answers:
            for rows in slices(len(answer.labels)):
                logs = log_probabilities(answer.logits[rows], temperature)
                labels, index = answer.labels[rows], np.arange(len(logs))
                probabilities = np.exp(logs).astype(np.float32)
                best = logs.argmax(axis=1)
                columns = [
                    pa.array([answer.split] * len(logs), pa.string()),
                    answer.names[rows],
                    named(labels),
                    named(best),
                    pa.array(probabilities[index, best]),
                    pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), len(classes)),
                    pa.array((-logs[index, labels]).astype(np.float32)),
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))


@dataclass(frozen=True)
class Predictions:
    """An open file of predictions, without the probabilities of every class.

    Attributes:
        classes: Names of the classes.
        temperature: That the probabilities were divided by, before the softmax.
        splits: Names of the splits, in order.
        split: Split of each example, string [n].
        names: Name of each example, string [n].
        labels: Class of each example, int [n].
        predicted: Most probable class, int [n].
        confidence: Its probability, float32 [n].
        raw_confidence: The same before temperature scaling.
        loss: -log p(label), float32 [n].
    """

    classes: tuple[str, ...]
    temperature: float
    split: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    raw_confidence: np.ndarray
    loss: np.ndarray

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in order."""
        return tuple(dict.fromkeys(self.split.tolist()))

    def of(self, split: str) -> Predictions:
        """Return the examples of one split."""
        kept = self.split == split
        arrays = ("split", "names", "labels", "predicted", "confidence", "raw_confidence", "loss")
        return Predictions(self.classes, self.temperature, *(getattr(self, name)[kept] for name in arrays))


def read_predictions(path: Path) -> Predictions:
    """Read a file of ``write_predictions``; its probabilities are looked at batch by batch.

    Raises:
        DataError: The file is missing, or is none of these.
    """
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("split", "names", "labels", "predicted")}
    figures: dict[str, list[np.ndarray]] = {name: [] for name in ("confidence", "raw_confidence", "loss")}
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            metadata = file.schema.metadata
            classes, temperature = tuple(json.loads(metadata[b"classes"])), float(metadata[b"temperature"])
            for batch in (file.get_batch(index) for index in range(file.num_record_batches)):
                probabilities = _matrix(batch.column("probabilities"))
                # p^T, normalised; the largest stays the largest.
                with np.errstate(divide="ignore"):
                    raw = log_probabilities(np.log(probabilities.astype(np.float64)) * temperature)
                columns["split"].append(_strings(batch.column("split")))
                columns["names"].append(_strings(batch.column("name")))
                columns["labels"].append(batch.column("label").indices.to_numpy())
                columns["predicted"].append(batch.column("prediction").indices.to_numpy())
                figures["confidence"].append(batch.column("probability").to_numpy())
                figures["raw_confidence"].append(np.exp(raw.max(axis=1)).astype(np.float32))
                figures["loss"].append(batch.column("loss").to_numpy())
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of predictions: {error}.", "Evaluate again.") from None
    arrays = [np.concatenate(parts) if parts else np.array([]) for parts in (*columns.values(), *figures.values())]
    return Predictions(classes, temperature, *arrays)


def _matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _strings(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)
