"""What a sweep teaches: surface, importance, trade-offs, advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayft.config import Dimension
from rayft.sweep.choose import choose_winner, mode_of, rank
from rayft.sweep.record import Trial
from rayft.sweep.space import DEPTH, RATE, Space, format_value

_RATE_BINS = 6
_NEAREST = 3
_FRACTIONS = ("accuracy", "top5", "macro_f1", "ece", "auc")


@dataclass(frozen=True)
class Surface:
    """Best metric over depth x learning rate.

    Attributes:
        depths: Rows, shallow first.
        rates: Columns, ascending; the geometric middle of each.
        values: values[row][column], None where no trial fell.
    """

    depths: tuple[Any, ...]
    rates: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Importance:
    """Part of the metric's variance that one field explains, 0 to 1."""

    field: str
    share: float


@dataclass(frozen=True)
class Point:
    """A trial on a trade-off: what it costs, what it gives, and whether no other is better in both."""

    trial: str
    cost: float
    value: float
    on_front: bool


@dataclass(frozen=True)
class Findings:
    """All that a report of a sweep shows.

    Attributes:
        metric: Name of the validation metric.
        mode: max or min.
        winner: Id of the best trial.
        surface: None where depth and rate were not both searched.
        importances: Largest first; empty below four trials.
        by_time: Metric against seconds of training.
        by_latency: Metric against milliseconds for one picture; empty where none was measured.
        advice: Sentences.
    """

    metric: str
    mode: str
    winner: str
    surface: Surface | None
    importances: tuple[Importance, ...]
    by_time: tuple[Point, ...]
    by_latency: tuple[Point, ...]
    advice: tuple[str, ...]


def find(trials: Mapping[str, Trial], space: Space, metric: str) -> Findings | None:
    """Return the findings, or None where no trial has a metric."""
    ranked = rank(trials.values(), metric)
    winner = choose_winner(trials.values(), metric)
    if winner is None:
        return None
    mode = mode_of(metric)
    times = [(trial, trial.train_s) for trial in ranked if trial.train_s]
    latencies = [(trial, trial.latency_ms) for trial in ranked if trial.latency_ms]
    return Findings(
        metric=metric,
        mode=mode,
        winner=winner.id,
        surface=response_surface(ranked, metric),
        importances=importances(ranked, space, metric),
        by_time=pareto([(t.id, cost, float(t.metric(metric) or 0)) for t, cost in times], mode),
        by_latency=pareto([(t.id, float(cost or 0), float(t.metric(metric) or 0)) for t, cost in latencies], mode),
        advice=advise(ranked, winner, metric),
    )


def response_surface(trials: Sequence[Trial], metric: str) -> Surface | None:
    """Return the best metric for each depth and each of a few classes of learning rate."""
    cells = [
        (trial.params[DEPTH], float(trial.params[RATE]), float(trial.metric(metric) or 0))
        for trial in trials
        if DEPTH in trial.params and RATE in trial.params
    ]
    if not cells:
        return None
    depths = sorted({depth for depth, _, _ in cells}, key=_depth_order)
    rates = sorted({rate for _, rate, _ in cells})
    if len(rates) <= _RATE_BINS:
        middles, bin_of = rates, {rate: index for index, rate in enumerate(rates)}
    else:
        low, high = math.log(rates[0]), math.log(rates[-1])
        width = (high - low) / _RATE_BINS
        middles = [math.exp(low + (index + 0.5) * width) for index in range(_RATE_BINS)]
        bin_of = {rate: min(int((math.log(rate) - low) / width), _RATE_BINS - 1) for rate in rates}
    best = max if mode_of(metric) == "max" else min
    grid: list[list[float | None]] = [[None] * len(middles) for _ in depths]
    for depth, rate, value in cells:
        row, column = depths.index(depth), bin_of[rate]
        known = grid[row][column]
        grid[row][column] = value if known is None else best(known, value)
    return Surface(tuple(depths), tuple(middles), tuple(map(tuple, grid)))


def importances(trials: Sequence[Trial], space: Space, metric: str) -> tuple[Importance, ...]:
    """Return how much of the metric's variance each field explains alone.

    The metric is predicted from one field by the mean of the nearest other trials in that field
    (leave-one-out); the share is 1 - squared error / variance, not below 0. A first-order Sobol index
    estimated without a model to fit: Hutter, Hoos and Leyton-Brown 2014 (fANOVA) call it the main effect.
    """
    found = []
    for path, dimension in space.items():
        known = [(trial.params[path], float(trial.metric(metric) or 0)) for trial in trials if path in trial.params]
        if len(known) >= 4 and len({str(value) for value, _ in known}) > 1:
            found.append(Importance(path, _main_effect(known, dimension)))
    return tuple(sorted(found, key=lambda each: -each.share))


def pareto(points: Sequence[tuple[str, float, float]], mode: str) -> tuple[Point, ...]:
    """Mark the trials that no other beats in both cost and metric, by ascending cost.

    Args:
        points: (trial, cost, metric); a lower cost is better.
        mode: Whether a larger or a smaller metric is better.
    """
    sign = 1 if mode == "max" else -1
    ordered = sorted(points, key=lambda point: (point[1], -sign * point[2]))
    found, best = [], -math.inf
    for trial, cost, value in ordered:
        found.append(Point(trial, cost, value, sign * value > best))
        best = max(best, sign * value)
    return tuple(found)


def advise(ranked: Sequence[Trial], winner: Trial, metric: str) -> tuple[str, ...]:
    """Say what to take, and what the best gains and costs against the config as it was and against other depths."""
    named = ", ".join(f"{path} {format_value(value)}" for path, value in winner.params.items())
    found = [f"Take trial {winner.id}: {named or 'the config as it is'}."]
    baseline = next((trial for trial in ranked if trial.baseline), None)
    if baseline is winner:
        found.append("No trial was better than the config as it is")
    elif baseline is not None:
        found.append(f"instead of the config as it is, trial {baseline.id}: {_difference(winner, baseline, metric)}")
    best_of: dict[Any, Trial] = {}
    for trial in ranked:
        if DEPTH in trial.params:
            best_of.setdefault(trial.params[DEPTH], trial)
    if winner.params.get(DEPTH) in best_of and len(best_of) > 1:
        for depth, other in sorted(best_of.items(), key=lambda pair: _depth_order(pair[0])):
            if depth != winner.params[DEPTH]:
                found.append(marginal_cost(winner, other, metric))
    return tuple(found)


def marginal_cost(better: Trial, other: Trial, metric: str) -> str:
    """Return a sentence such as ``depth 3 instead of 5: +0.4 points for 2.1x the time per epoch``."""
    return f"depth {better.params[DEPTH]} instead of {other.params[DEPTH]}: {_difference(better, other, metric)}"


def _difference(better: Trial, other: Trial, metric: str) -> str:
    """Say what a trial gains over another one, and what it costs."""
    sign = 1 if mode_of(metric) == "max" else -1
    gain = sign * (float(better.metric(metric) or 0) - float(other.metric(metric) or 0))
    text = f"{gain * 100:+.1f} points" if metric in _FRACTIONS else f"{gain:+.4f} {metric}"
    if better.epoch_s and other.epoch_s:
        text += f" for {_times(better.epoch_s / other.epoch_s)} the time per epoch"
    if other.state != "finished":
        text += f" (trial {other.id} was stopped after {len(other.curve)} of {other.epochs} epochs)"
    return text


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if 0.1 <= ratio < 100 else f"{ratio:.2g}x"


def _main_effect(known: Sequence[tuple[Any, float]], dimension: Dimension) -> float:
    mean = math.fsum(value for _, value in known) / len(known)
    variance = math.fsum((value - mean) ** 2 for _, value in known)
    if variance == 0:
        return 0.0
    error = 0.0
    for index, (own, value) in enumerate(known):
        others = [pair for place, pair in enumerate(known) if place != index]
        near = _near(own, others, dimension) or others
        error += (value - math.fsum(other for _, other in near) / len(near)) ** 2
    return max(0.0, 1 - error / variance)


def _near(own: Any, others: Sequence[tuple[Any, float]], dimension: Dimension) -> list[tuple[Any, float]]:
    if dimension.values is not None:
        return [pair for pair in others if pair[0] == own]
    scale = math.log if dimension.loguniform else float
    return sorted(others, key=lambda pair: abs(scale(pair[0]) - scale(own)))[:_NEAREST]


def _depth_order(depth: Any) -> tuple[int, float, str]:
    """Numbers, then names, then all."""
    if depth == "all":
        return (2, 0.0, "")
    return (1, 0.0, depth) if isinstance(depth, str) else (0, float(depth), "")
