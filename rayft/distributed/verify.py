"""Proof that a config computes the same run on any number of workers, and after a resumption."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train

from rayft.config import RunConfig
from rayft.distributed.cluster import connect, embedded_resources
from rayft.distributed.devices import plan_devices, prepare_tensorflow
from rayft.distributed.group import OnProgress, run_group
from rayft.distributed.run import prepare_dataset
from rayft.distributed.signals import noted_signals
from rayft.distributed.worker import broadcast, enter_driver_folder, report_final_errors
from rayft.errors import ConfigError, RunInterrupted
from rayft.learn.parity_trace import Trace
from rayft.storage import Storage

WORKER_COUNTS = (1, 2, 3)
# Examples of a batch there; every worker needs one.
MOST_WORKERS = 8
FLOAT64_LOSS = 1e-9
FLOAT32_LOSS = 1e-5
FLOAT32_GRADIENT = 1e-4


@dataclass(frozen=True)
class Check:
    """One line of the proof.

    Attributes:
        name: What is compared.
        workers: Worker counts that it covers.
        measured: The figure, or yes/no as 0.0/1.0 for exact checks.
        tolerance: Largest figure allowed; None for figures that are only stated.
    """

    name: str
    workers: str
    measured: float
    tolerance: float | None

    @property
    def passed(self) -> bool:
        """Whether the figure is within its tolerance; NaN is not."""
        return self.tolerance is None or self.measured <= self.tolerance


@dataclass(frozen=True)
class VerifyReport:
    """The whole proof.

    Attributes:
        checks: Its lines.
        conditions: What was trained, in words.
    """

    checks: tuple[Check, ...]
    conditions: str

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def table(self) -> str:
        """Return the checks as text in columns."""
        rows = [("check", "workers", "measured", "allowed", "")]
        for check in self.checks:
            allowed = "stated" if check.tolerance is None else f"{check.tolerance:.0e}" if check.tolerance else "0"
            verdict = "" if check.tolerance is None else "ok" if check.passed else "FAILED"
            rows.append((check.name, check.workers, f"{check.measured:.1e}", allowed, verdict))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def verify(
    config: RunConfig,
    *,
    worker_counts: tuple[int, ...] = WORKER_COUNTS,
    on_progress: OnProgress = lambda state: None,
) -> VerifyReport:
    """Train short runs of ``config`` on several worker counts and compare their numbers.

    The runs keep model, loss, step, optimizer and strategies of the config, and take few small pictures, augmentation,
    clipping, and a number of examples that no batch divides. float64 shows that the same numbers are
    computed; float32 head-only that rounding stays small; the first float32 gradient of an unfrozen network
    that nothing but rounding differs. Later steps of an unfrozen float32 run amplify rounding: their drift
    is stated.

    Args:
        config: The run.
        worker_counts: At least two; the others are compared with the first.
        on_progress: Called with what is being run.

    Raises:
        ConfigError: ``worker_counts`` cannot be compared.
        RayftError: Config, data or cluster are not fit for it.
        RunFailed: A run broke down.
        RunInterrupted: A signal ended it.
    """
    _check_counts(worker_counts)
    dataset = prepare_dataset(config, on_progress)
    scratch = Storage.open(config.storage) / "runs" / f".{config.name}-verify-{os.getpid()}"
    traces: dict[int, dict[str, Any]] = {}
    end = RunInterrupted("The proof was broken off.", "Run the same command again; it starts anew.")
    try:
        on_progress({"phase": "starting Ray"})
        with connect(_share(config, max(worker_counts))), noted_signals("stopping", end) as asked:
            for count in worker_counts:
                if asked.is_set():
                    raise end
                cluster = _share(config, count)
                payload = {"config": config.model_dump(), "dataset": dataset, "cluster": cluster.model_dump()}
                traces[count] = run_group(
                    _verify_worker,
                    payload,
                    cluster,
                    scratch,
                    functools.partial(_tell_with_count, on_progress, count),
                )
    except RunInterrupted:
        # What a group says of its training is no news of the proof.
        raise end from None
    finally:
        scratch.delete()
    return VerifyReport(tuple(_compare(traces)), traces[worker_counts[0]]["conditions"])


def _check_counts(counts: tuple[int, ...]) -> None:
    if len(set(counts)) != len(counts) or len(counts) < 2 or not all(1 <= count <= MOST_WORKERS for count in counts):
        raise ConfigError(
            f"--workers is {','.join(map(str, counts))}; two or more different numbers from 1 to {MOST_WORKERS} "
            "are allowed.",
            "Example: --workers 1,2,3",
        )


def _tell_with_count(on_progress: OnProgress, count: int, state: dict[str, Any]) -> None:
    on_progress({**state, "workers": count})


def _share(config: RunConfig, count: int) -> Any:
    """Let ``count`` workers share the CPUs; parity does not depend on how many each has."""
    cpus = config.cluster.cpus_per_worker
    if config.cluster.address is None:
        cpus = min(cpus, embedded_resources()["CPU"] / count)
    return config.cluster.model_copy(update={"workers": count, "cpus_per_worker": cpus, "max_failures": 1})


def _verify_worker(payload: dict[str, Any]) -> None:
    monitor = payload["monitor"]
    if ray.get(monitor.error.remote()) is not None:
        return
    enter_driver_folder(payload)
    config = RunConfig.model_validate(payload["config"])
    config = config.model_copy(update={"cluster": type(config.cluster).model_validate(payload["cluster"])})
    rank = ray.train.get_context().get_world_rank()
    if rank == 0:
        ray.get(monitor.start.remote())
    strategy = prepare_tensorflow(plan_devices(config.cluster))
    from rayft.learn.parity import run_cases
    from rayft.learn.place import Place

    place = Place(rank, config.cluster.workers, broadcast, lambda: None)

    def tell(case: str) -> None:
        if rank == 0:
            monitor.update.remote({"phase": f"{config.cluster.workers} workers: {case}"})

    with report_final_errors(monitor, rank):
        result = run_cases(config, payload["dataset"], place, strategy, tell)
    if rank == 0:
        ray.get(monitor.finish.remote(result))


def _compare(traces: dict[int, dict[str, Any]]) -> list[Check]:
    checks = []
    first, *rest = traces
    counts = ", ".join(map(str, traces))
    for name, alone in traces[first]["cases"].items():
        others = {count: traces[count]["cases"][name] for count in rest}
        for count, trace in others.items():
            checks.extend(_compare_pair(name, alone, trace, f"{first} / {count}"))
        every = [alone, *others.values()]
        checks.append(Check(f"{name}: ranks with other weights", counts, _any(t.same_on_all_ranks for t in every), 0.0))
        checks.append(Check(f"{name}: resumed run differs", counts, _any(t.resumed_equal for t in every), 0.0))
        missed = max(abs(t.examples_per_epoch - traces[first]["examples"]) for t in every)
        checks.append(Check(f"{name}: examples missed an epoch", counts, float(missed), 0.0))
    return checks


def _compare_pair(name: str, alone: Trace, trace: Trace, workers: str) -> list[Check]:
    loss = _relative(alone.losses, trace.losses)
    if name.startswith("float64"):
        metric = _relative([alone.metrics["log_loss"]], [trace.metrics["log_loss"]]) if alone.metrics else 0.0
        return [
            Check(f"{name}: losses", workers, loss, FLOAT64_LOSS),
            Check(f"{name}: validation log-loss", workers, metric, FLOAT64_LOSS),
            Check(f"{name}: final weights", workers, _distance(alone.weights, trace.weights), FLOAT64_LOSS),
        ]
    if alone.head_only:
        return [Check(f"{name}: losses", workers, loss, FLOAT32_LOSS)]
    return [
        Check(f"{name}: first gradient", workers, _distance(alone.gradient, trace.gradient), FLOAT32_GRADIENT),
        Check(f"{name}: drift of the losses", workers, loss, None),
    ]


def _relative(first: list[float], second: list[float]) -> float:
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        return float("inf")
    return float(np.max(np.abs(a - b) / np.maximum(np.abs(a), np.finfo(float).tiny)))


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Norm of the difference of two vectors over that of the first."""
    return float(np.linalg.norm(first - second) / max(np.linalg.norm(first), np.finfo(float).tiny))


def _any(good: Any) -> float:
    return float(not all(good))
