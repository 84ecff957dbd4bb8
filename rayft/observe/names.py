"""The metrics that rayft exports, by their stable names.

A name, once released, keeps its meaning, unit and labels. Training, sweep and cache metrics leave through Ray, whose
agent on each node puts ``ray_`` before every name; the endpoint exports its own under the names as they stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RAY_PREFIX = "ray_"
_RUN = ("run", "trial")
_WORKER = ("run", "trial", "rank")
_VERSION = ("model", "version")


@dataclass(frozen=True)
class Metric:
    """What one metric means.

    Attributes:
        kind: Of Prometheus; a histogram is scraped as ``_bucket``, ``_sum`` and ``_count``.
        unit: Of its value.
        help: One sentence.
        labels: Its own; Ray adds those of node and process. ``trial`` is empty outside of a sweep.
        through_ray: Whether it is scraped at Ray's agents, with their prefix, or at the endpoint's /metrics.
    """

    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    through_ray: bool = True


TRAINING = {
    "rayft_train_workers": Metric("gauge", "workers", "Workers that train together.", _RUN),
    "rayft_train_epochs_done": Metric("gauge", "epochs", "Epochs done.", _RUN),
    "rayft_train_epochs_planned": Metric(
        "gauge", "epochs", "Epochs that the run will take, if it does not stop early.", _RUN
    ),
    "rayft_train_steps_done": Metric(
        "gauge", "steps", "Steps done, of the whole run; a step is one global batch.", _RUN
    ),
    "rayft_train_steps_planned": Metric("gauge", "steps", "Steps that the run will take.", _RUN),
    "rayft_train_loss": Metric("gauge", "1", "Loss of the latest step, a mean over its global batch.", _RUN),
    "rayft_train_validation": Metric("gauge", "1", "Latest value of each validation metric.", (*_RUN, "metric")),
    "rayft_train_examples_per_second": Metric(
        "gauge", "examples/s", "Examples of all workers a second, since this start; its first call left out.", _RUN
    ),
    "rayft_train_left_seconds": Metric("gauge", "seconds", "Time that the steps left will take at this rate.", _RUN),
    "rayft_train_restarts": Metric("gauge", "restarts", "Times that the workers of this run were replaced.", _RUN),
    "rayft_train_checkpoint_seconds": Metric("gauge", "seconds", "Time that the latest checkpoint took.", _RUN),
    "rayft_train_steps_total": Metric("counter", "steps", "Steps that this worker took.", _WORKER),
    "rayft_train_examples_total": Metric("counter", "examples", "Real examples of the steps, over all workers.", _RUN),
    "rayft_train_step_seconds": Metric(
        "gauge", "seconds", "Wall time of a step, a mean over the latest call (about a second of steps).", _WORKER
    ),
    "rayft_train_input_stall_seconds": Metric(
        "gauge", "seconds", "Part of a step in which this worker waited for its next batch, a mean likewise.", _WORKER
    ),
    "rayft_train_collective_wait_seconds": Metric(
        "gauge",
        "seconds",
        "Part of a step between this worker's gradient and the sum over all workers: transfer and waiting for the "
        "slowest, a mean likewise; 0 with one worker.",
        _WORKER,
    ),
}

CACHE = {
    "rayft_cache_hits_total": Metric("counter", "caches", "Prefix caches found complete when they were opened.", _RUN),
    "rayft_cache_misses_total": Metric("counter", "caches", "Prefix caches that had to be computed.", _RUN),
    "rayft_cache_bytes": Metric("gauge", "bytes", "Size of the prefix caches that the run reads.", _RUN),
    "rayft_cache_build_seconds": Metric(
        "gauge", "seconds", "Time spent computing them; 0 where none was missing.", _RUN
    ),
}

SWEEP = {
    "rayft_sweep_trials": Metric("gauge", "trials", "Trials of the sweep in each state.", ("run", "state")),
    "rayft_sweep_trials_planned": Metric("gauge", "trials", "Trials that the search is to take in all.", ("run",)),
    "rayft_sweep_best": Metric(
        "gauge", "1", "Best value so far of the metric that is searched for.", ("run", "metric")
    ),
}

_SERVING: dict[str, tuple[Literal["counter", "gauge", "histogram"], str, str, tuple[str, ...]]] = {
    "request_seconds": (
        "histogram", "seconds", "Time of an answered request, from the engine's door to the answer.", _VERSION
    ),
    "pictures_total": ("counter", "pictures", "Pictures answered.", _VERSION),
    "refusals_total": ("counter", "requests", "Requests that the engine refused.", ("model", "status")),
    "responses_total": ("counter", "responses", "Responses of any kind.", ("protocol", "status")),
    "batch_pictures": ("histogram", "pictures", "Pictures in a pass of the network.", ()),
    "padding_rows_total": ("counter", "rows", "Empty rows in passes.", ()),
    "pass_seconds": ("histogram", "seconds", "Time of a pass.", ()),
    "queue_pictures": ("gauge", "pictures", "Pictures that wait for a pass.", ()),
    "in_flight_pictures": ("gauge", "pictures", "Pictures not answered yet.", ()),
    "replicas": ("gauge", "replicas", "Replicas on this machine.", ()),
    "loaded_replicas": ("gauge", "replicas", "Replicas of this machine that serve a version.", _VERSION),
    "swaps_total": (
        "counter", "swaps", "Versions that took, or failed to take, another's place.", ("model", "outcome")
    ),
}  # fmt: skip
SERVING = {
    f"rayft_serve_{name}": Metric(kind, unit, help, labels, through_ray=False)
    for name, (kind, unit, help, labels) in _SERVING.items()
}

METRICS: dict[str, Metric] = TRAINING | CACHE | SWEEP | SERVING


def scraped_name(name: str) -> str:
    """Return the name of a metric at the target where Prometheus scrapes it."""
    return RAY_PREFIX + name if METRICS[name].through_ray else name
