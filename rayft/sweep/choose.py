"""Which trial is best, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayft.config import RunConfig
from rayft.config.train import LOWER_IS_BETTER
from rayft.sweep.record import Trial

# 97.5% quantiles of Student's t by degrees of freedom from 1; NIST/SEMATECH e-Handbook, section 1.3.6.7.2.
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_T_975_LIMIT = 1.960


@dataclass(frozen=True)
class Estimate:
    """Mean of a metric over seeds, with its 95% t-interval; ``low`` and ``high`` are None for one seed."""

    trial: str
    mean: float
    low: float | None
    high: float | None
    seeds: int


def sweep_metric(config: RunConfig) -> str:
    """Return the validation metric that decides."""
    return config.sweep.metric or config.train.metric


def mode_of(metric: str) -> Literal["max", "min"]:
    """Tell whether a larger or a smaller value is better."""
    return "min" if metric in LOWER_IS_BETTER else "max"


def best_epoch(curve: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """Return epoch, step and metrics of the best epoch; of equal ones that with the lower log_loss, then the first."""
    if not curve:
        return None
    sign = -1 if mode_of(metric) == "min" else 1
    line = max(curve, key=lambda each: (sign * each[metric], -each["log_loss"]))
    about = ("epoch", "step", "loss", "learning_rate", "examples_per_s")
    return {
        "epoch": line["epoch"],
        "step": line["step"],
        "metrics": {name: value for name, value in line.items() if name not in about},
    }


def rank(trials: Iterable[Trial], metric: str) -> list[Trial]:
    """Return the trials of the search that have a metric, best first; whole ones before those that ended early."""
    sign = 1 if mode_of(metric) == "min" else -1
    known = [trial for trial in trials if trial.role == "search" and trial.best and trial.state != "failed"]
    return sorted(
        known,
        key=lambda trial: (
            trial.state != "finished",
            sign * (trial.metric(metric) or 0.0),
            trial.best["metrics"]["log_loss"] if trial.best else math.inf,
            trial.index,
        ),
    )


def estimates(trials: Iterable[Trial], metric: str) -> list[Estimate]:
    """Return a finalist's mean over its seeds, best first; only finalists with a repeat that finished."""
    trials = list(trials)
    sign = 1 if mode_of(metric) == "min" else -1
    found = []
    for trial in rank(trials, metric):
        repeats = [each for each in trials if each.role == "repeat" and each.index == trial.index]
        values = [
            value
            for each in (trial, *repeats)
            if each.state == "finished" and (value := each.metric(metric)) is not None
        ]
        if repeats and values:
            found.append(estimate(trial.id, values))
    return sorted(found, key=lambda each: sign * each.mean)


def estimate(trial: str, values: Sequence[float]) -> Estimate:
    """Return mean and 95% t-interval of independent values."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(trial, mean, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = t_quantile(count - 1) * deviation / math.sqrt(count)
    return Estimate(trial, mean, mean - half, mean + half, count)


def t_quantile(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t, to 0.2% of its value."""
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    # First two terms of the expansion in 1/freedom; Abramowitz and Stegun 26.7.5.
    z = _T_975_LIMIT
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def choose_winner(trials: Iterable[Trial], metric: str) -> Trial | None:
    """Return the trial of the search that is packaged: best mean over seeds where there are seeds."""
    trials = list(trials)
    ranked = rank(trials, metric)
    repeated = estimates(trials, metric)
    if repeated:
        return next(trial for trial in ranked if trial.id == repeated[0].trial)
    return ranked[0] if ranked else None
