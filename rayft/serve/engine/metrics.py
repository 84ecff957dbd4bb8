"""Prometheus metrics of every replica of a node, kept in files that all of them share.

A replica must call ``prepare`` before anything imports prometheus_client, which looks for the folder at its import.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rayft.observe.names import SERVING
from rayft.serve.contract import ServedModel

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PREFIX = "rayft_serve_"
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def prepare(folder: Path) -> None:
    """Let this process keep its metrics in a folder, which several processes of one machine may share."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_FOLDER] = str(folder)


class Metrics:
    """What a replica counts, under the names of ``rayft.observe.names``.

    Hears of the engine as ``rayft.serve.engine.observe.Observer``, of the protocols through ``responded``.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        # Collected from the folder alone; the default registry would repeat the own part.
        own = CollectorRegistry()
        self._folder = os.environ[_FOLDER]
        self._lock = threading.Lock()

        def about(name: str) -> tuple[str, str, tuple[str, ...]]:
            metric = SERVING[f"{_PREFIX}{name}"]
            return f"{_PREFIX}{name}", metric.help, metric.labels

        def counter(name: str) -> Counter:
            return Counter(*about(name), registry=own)

        def histogram(name: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(*about(name), buckets=buckets, registry=own)

        def gauge(name: str) -> Gauge:
            # Of the living alone: what a dead replica held is gone.
            return Gauge(*about(name), multiprocess_mode="livesum", registry=own)

        self._latency = histogram("request_seconds", _SECONDS)
        self._pictures = counter("pictures_total")
        self._refused = counter("refusals_total")
        self._responses = counter("responses_total")
        self._batch = histogram("batch_pictures", _PICTURES)
        self._padding = counter("padding_rows_total")
        self._pass = histogram("pass_seconds", _SECONDS)
        self._queued = gauge("queue_pictures")
        self._in_flight = gauge("in_flight_pictures")
        self._replicas = gauge("replicas")
        self._loaded = gauge("loaded_replicas")
        self._swaps = counter("swaps_total")
        self._replicas.set(1)

    def batch(self, rows: int, size: int, seconds: float) -> None:
        """Count one pass."""
        self._batch.observe(rows)
        self._padding.inc(size - rows)
        self._pass.observe(seconds)

    def answered(self, model: ServedModel, pictures: int, seconds: float) -> None:
        """Count one answered request."""
        self._latency.labels(model.name, model.version).observe(seconds)
        self._pictures.labels(model.name, model.version).inc(pictures)

    def refused(self, model: str, status: int) -> None:
        """Count one request without an answer; the model is empty where its name is unknown."""
        self._refused.labels(model, str(status)).inc()

    def load(self, queued: int, in_flight: int) -> None:
        """Note how many pictures wait, and how many are in the house."""
        self._queued.set(queued)
        self._in_flight.set(in_flight)

    def responded(self, protocol: str, status: int) -> None:
        """Count one response.

        Args:
            protocol: ``http`` or ``grpc``.
            status: HTTP status; of gRPC, the one that the error would have there.
        """
        self._responses.labels(protocol, str(status)).inc()

    def swapped(self, before: ServedModel | None, after: ServedModel) -> None:
        """Note that a version serves now, in the place of another."""
        if before is not None:
            self._loaded.labels(before.name, before.version).set(0)
            self._swaps.labels(after.name, "done").inc()
        self._loaded.labels(after.name, after.version).set(1)

    def swap_failed(self, model: str, problem: str) -> None:
        """Count a version that could not take its place."""
        self._swaps.labels(model, "failed").inc()

    def expose(self) -> tuple[str, bytes]:
        """Return the metrics of all replicas of this machine: content type and body; reads files."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        with self._lock:
            self._forget_the_dead()
            together: CollectorRegistry = CollectorRegistry()
            MultiProcessCollector(together, self._folder)
            return CONTENT_TYPE_LATEST, generate_latest(together)

    def _forget_the_dead(self) -> None:
        """Remove the gauges of replicas that were killed; their counters stay, or sums would fall."""
        from prometheus_client.multiprocess import mark_process_dead

        for file in Path(self._folder).glob("gauge_live*.db"):
            pid = file.stem.rpartition("_")[2]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                # Another replica may be doing the same.
                with contextlib.suppress(FileNotFoundError):
                    mark_process_dead(int(pid), self._folder)
