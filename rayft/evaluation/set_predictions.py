"""The file of predictions where an example may have several labels, written and read in parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.errors import DataError
from rayft.evaluation.answers import PRESENT, Answers, slices
from rayft.evaluation.calibration import log_sigmoid, sigmoid
from rayft.evaluation.set_figures import SetFigures


def write_sets(path: Path, answers: Sequence[Answers], classes: tuple[str, ...], temperature: float) -> None:
    """Write an Arrow IPC file, a row for each example.

    Columns: split, name, labels, predictions (lists of strings), probabilities (fixed-size list of float32, one a
    class, each on its own, after temperature scaling), loss float32 (mean over the classes of -log of the probability
    of what is so, nats). The schema's metadata are those of ``rayft.evaluation.predictions.write_predictions``.
    """
    several = pa.list_(pa.string())
    schema = pa.schema(
        [
            ("split", pa.string()),
            ("name", pa.string()),
            ("labels", several),
            ("predictions", several),
            ("probabilities", pa.list_(pa.float32(), len(classes))),
            ("loss", pa.float32()),
        ],
        metadata={"classes": json.dumps(classes), "temperature": repr(float(temperature))},
    )
    names = np.array(classes, object)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for answer in answers:
            for rows in slices(len(answer.labels)):
                scaled, present = answer.logits[rows].astype(np.float64) / temperature, answer.labels[rows]
                probabilities = sigmoid(scaled).astype(np.float32)
                loss = -log_sigmoid(np.where(present, scaled, -scaled)).mean(axis=1)
                columns = [
                    pa.array([answer.split] * len(present), pa.string()),
                    answer.names[rows],
                    pa.array([names[row].tolist() for row in present], several),
                    pa.array([names[row].tolist() for row in probabilities > PRESENT], several),
                    pa.FixedSizeListArray.from_arrays(pa.array(probabilities.reshape(-1)), len(classes)),
                    pa.array(loss.astype(np.float32)),
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))


def read_sets(path: Path) -> dict[str, SetFigures]:
    """Read a file of ``write_sets`` batch by batch; returns the figures of each split, in order.

    Raises:
        DataError: The file is missing, or is none of these.
    """
    found: dict[str, SetFigures] = {}
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            metadata = file.schema.metadata
            classes, temperature = tuple(json.loads(metadata[b"classes"])), float(metadata[b"temperature"])
            for index in range(file.num_record_batches):
                for split, batch in _by_split(file.get_batch(index)):
                    figures = found.setdefault(split, SetFigures(split, classes, temperature))
                    figures.add(batch.column("name").to_pylist(), *_matrices(batch, classes))
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of predictions: {error}.", "Evaluate again.") from None
    return found


def _by_split(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    splits = batch.column("split")
    for split in splits.unique().to_pylist():
        yield split, batch.filter(pc.equal(splits, split))


def _matrices(batch: pa.RecordBatch, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return bool and float32 [n, classes]: what is there, and its probability."""
    numbers = {name: number for number, name in enumerate(classes)}
    present = np.zeros((len(batch), len(classes)), bool)
    for row, labels in enumerate(batch.column("labels").to_pylist()):
        present[row, [numbers[label] for label in labels]] = True
    flat = batch.column("probabilities").flatten().to_numpy(zero_copy_only=False)
    return present, flat.reshape(len(batch), -1)
