"""Metrics of a process on their way to Prometheus, through the agent that Ray runs on each node."""

from __future__ import annotations

import math
import time
from typing import Any

from ray.util.metrics import Counter, Gauge, Metric

from rayft.observe.names import METRICS
from rayft.observe.sink import Events, OnLine

# Ray's agent forgets a gauge that was not set during two of its intervals, ten seconds each.
_REFRESH_S = 1.0


class RaySink(Events):
    """Records figures with Ray, under the names of the table, and writes lines of events.

    Ray's agent puts ``ray_`` before each name and adds the labels of node and process. A gauge that was set once,
    such as the size of a cache, is set again for as long as the process records anything.
    """

    def __init__(self, write: OnLine, *, run: str, trial: str = "", rank: int | None = None) -> None:
        """Record nothing yet; Ray is connected."""
        super().__init__(write, run=run, trial=trial, rank=rank)
        self._own = {"run": run, "trial": trial, "rank": "" if rank is None else str(rank)}
        self._metrics: dict[str, Metric] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._refreshed_at = time.monotonic()

    def record(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge, or add to a counter."""
        if not math.isfinite(value):
            return
        metric = self._metrics.get(name) or self._open(name)
        tags = {key: value for key, value in {**self._own, **labels}.items() if key in METRICS[name].labels}
        if isinstance(metric, Gauge):
            self._gauges[name, tuple(tags.items())] = float(value)
            metric.set(float(value), tags)
        elif isinstance(metric, Counter) and value > 0:
            metric.inc(float(value), tags)
        if time.monotonic() - self._refreshed_at > _REFRESH_S:
            self._refresh()

    def _refresh(self) -> None:
        self._refreshed_at = time.monotonic()
        for (name, tags), value in self._gauges.items():
            self._metrics[name].set(value, dict(tags))

    def _open(self, name: str) -> Metric:
        known = METRICS[name]
        kinds: dict[str, Any] = {"gauge": Gauge, "counter": Counter}
        self._metrics[name] = kinds[known.kind](name, f"{known.help} Unit: {known.unit}.", known.labels)
        return self._metrics[name]
