"""Answers to many pictures, as JSON lines or as Parquet."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayft.errors import ConfigError, StorageError
from rayft.evaluation.answers import PRESENT

Write = Callable[[Sequence["Answer"]], None]


@dataclass(frozen=True)
class Answer:
    """What came of one picture.

    Attributes:
        name: Its path, or table and row.
        probabilities: float32 [classes], or None where it cannot be used.
        error: Why it cannot be used, or None.
    """

    name: str
    probabilities: np.ndarray | None
    error: str | None = None


def as_json(answer: Answer, labels: Sequence[str], top: int | None) -> str:
    """Return one line: input, label, probability, top; or input and error."""
    if answer.probabilities is None:
        return json.dumps({"input": answer.name, "error": answer.error})
    best = best_classes(answer.probabilities, labels, top)
    (label, probability), *_ = best_classes(answer.probabilities, labels, 1)
    return json.dumps(
        {
            "input": answer.name,
            "label": label,
            "probability": probability,
            "top": [{"label": label, "probability": value} for label, value in best],
        }
    )


def as_text(answer: Answer, labels: Sequence[str], top: int | None) -> str:
    """Return one line for people."""
    if answer.probabilities is None:
        return f"{answer.name}  {answer.error}"
    best = best_classes(answer.probabilities, labels, top)
    return "  ".join([answer.name, *(f"{label} {probability:.3f}" for label, probability in best)])


def best_classes(probabilities: np.ndarray, labels: Sequence[str], top: int | None) -> list[tuple[str, float]]:
    """Return the most probable classes with their probabilities; without ``top`` those above .5."""
    order = np.argsort(-probabilities, kind="stable")
    order = order[probabilities[order] > PRESENT] if top is None else order[:top]
    return [(labels[index], float(probabilities[index])) for index in order]


@contextlib.contextmanager
def open_output(path: Path, labels: Sequence[str], top: int | None) -> Iterator[Write]:
    """Yield a function that appends answers to a file, which appears whole or not at all.

    ``.jsonl`` takes a line each; ``.parquet`` the columns input, label, probability, probabilities (in the order of
    ``classes`` in the schema's metadata) and error.

    Raises:
        ConfigError: The name ends in neither.
        StorageError: The file cannot be written.
    """
    writers = {".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix not in writers:
        raise ConfigError(f"--output is {str(path)!r}; names ending in {', '.join(writers)} are allowed.", "Rename it.")
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with writers[path.suffix](temporary, labels, top) as write:
                yield write
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror or error}.", "Choose another file.") from None


@contextlib.contextmanager
def _jsonl(path: Path, labels: Sequence[str], top: int | None) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda answers: file.writelines(as_json(answer, labels, top) + "\n" for answer in answers)


@contextlib.contextmanager
def _parquet(path: Path, labels: Sequence[str], top: int | None) -> Iterator[Write]:
    schema = pa.schema(
        [
            ("input", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float32()),
            ("probabilities", pa.list_(pa.float32())),
            ("error", pa.string()),
        ],
        metadata={"classes": json.dumps(list(labels))},
    )
    with pq.ParquetWriter(str(path), schema) as writer:

        def write(answers: Sequence[Answer]) -> None:
            rows = [answer.probabilities for answer in answers]
            best = [None if row is None else int(row.argmax()) for row in rows]
            columns = [
                [answer.name for answer in answers],
                [None if index is None else labels[index] for index in best],
                [None if row is None else float(row.max()) for row in rows],
                [None if row is None else row.tolist() for row in rows],
                [answer.error for answer in answers],
            ]
            arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))

        yield write
