"""What a network said to the examples of a split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayft.evaluation.calibration import log_probabilities

PRESENT = 0.5  # Where pictures may have several labels, those above it are the answer.
_ROWS_PER_BATCH = 2048


@dataclass(frozen=True)
class Answers:
    """What a network said to every example of a split.

    Attributes:
        split: Name of the split.
        names: Name of each example, string [n].
        labels: Class of each example, int32 [n]; bool [n, classes] where it may have several. May be mapped too.
        logits: float [n, classes]; may be mapped from a file.
    """

    split: str
    names: pa.Array
    labels: np.ndarray
    logits: np.ndarray

    def log_loss(self, temperature: float = 1.0) -> float:
        """Return the mean of -log p(label), nats."""
        total = 0.0
        for rows in slices(len(self.labels)):
            chosen = log_probabilities(self.logits[rows], temperature)
            total -= float(chosen[np.arange(len(chosen)), self.labels[rows]].sum())
        return total / len(self.labels)


def slices(length: int) -> Iterator[slice]:
    """Divide so many rows into parts that memory bears."""
    for start in range(0, length, _ROWS_PER_BATCH):
        yield slice(start, min(start + _ROWS_PER_BATCH, length))
