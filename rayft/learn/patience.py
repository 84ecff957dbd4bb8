"""Waiting for a metric to improve."""

from __future__ import annotations

from dataclasses import dataclass

from rayft.learn.metrics import LOWER_IS_BETTER


@dataclass(frozen=True)
class Patience:
    """How long a metric has not improved.

    Attributes:
        best: Best value so far; None before the first.
        waited: Values since then that were no improvement.
    """

    best: float | None = None
    waited: int = 0

    def after(self, metric: str, value: float, min_delta: float) -> Patience:
        """Return what holds after another value; an improvement is larger than ``min_delta``."""
        sign = -1 if metric in LOWER_IS_BETTER else 1
        if self.best is None or sign * (value - self.best) > min_delta:
            return Patience(value, 0)
        return Patience(self.best, self.waited + 1)


@dataclass(frozen=True)
class Waiting:
    """What the training does when it waits too long; part of a checkpoint's position.

    Attributes:
        stopping: Towards ``train.early_stopping``.
        plateau: Towards the next drop of the schedule plateau.
        plateau_factor: What its drops have left of the rate.
    """

    stopping: Patience = Patience()
    plateau: Patience = Patience()
    plateau_factor: float = 1.0
