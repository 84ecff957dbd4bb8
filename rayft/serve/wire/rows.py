"""What REST says of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rayft.serve.answers import PRESENT
from rayft.serve.contract import ServedModel

DEFAULT_TOP = 5


def prediction_rows(model: ServedModel, probabilities: np.ndarray, top: int = DEFAULT_TOP) -> list[dict[str, Any]]:
    """Return a row for each picture: label, probability, probabilities, top.

    Args:
        model: What answered.
        probabilities: float32 [n, classes].
        top: Entries of ``top`` at most.

    Returns:
        Objects whose ``probabilities`` is an array in the order of the model's labels; where pictures may have
        several labels, ``labels`` lists those above .5.
    """
    return [_row(model, row, top) for row in np.ascontiguousarray(probabilities)]


def best_labels(labels: Sequence[str], probabilities: np.ndarray) -> list[bytes]:
    """Return the most probable label of each picture, in UTF-8."""
    return [labels[index].encode() for index in probabilities.argmax(axis=1)]


def _row(model: ServedModel, probabilities: np.ndarray, top: int) -> dict[str, Any]:
    order = np.argsort(-probabilities, kind="stable")[:top]
    # Single precision throughout: written as float64, the same number would look like another.
    best = [{"label": model.labels[index], "probability": probabilities[index]} for index in order]
    row = {**best[0], "probabilities": probabilities, "top": best}
    if model.multi_label:
        row["labels"] = [model.labels[index] for index in np.flatnonzero(probabilities > PRESENT)]
    return row
