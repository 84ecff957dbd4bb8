"""What is compared of two runs; apart, since a driver that reads it shall not load TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trace:
    """What one short run computed.

    Attributes:
        losses: Global mean loss of each step.
        gradient: Gradient of the first step, flat, summed over replicas; float64.
        metrics: Validation metrics after the run.
        weights: Trained weights after the run, flat; float64.
        same_on_all_ranks: Whether all ranks ended with the same weights, bit for bit.
        resumed_equal: Whether a run cut in the middle and resumed had the same losses and ended with the same
            state, bit for bit.
        examples_per_epoch: Real examples that the batches of one epoch held, over all ranks.
        head_only: Whether the whole backbone was frozen.
    """

    losses: list[float]
    gradient: np.ndarray
    metrics: dict[str, float]
    weights: np.ndarray
    same_on_all_ranks: bool
    resumed_equal: bool
    examples_per_epoch: float
    head_only: bool
