"""A group of TensorFlow workers under Ray Train, watched from the driver."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.tensorflow import TensorflowTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

from rayft.config import ClusterConfig
from rayft.distributed.backend import WorkersOfTensorflow
from rayft.distributed.monitor import Monitor
from rayft.errors import RunFailed, RunInterrupted
from rayft.storage import Storage

POLL_S = 0.3
LINE_LENGTH = 250

OnProgress = Callable[[dict[str, Any]], None]


def run_group(
    function: Callable[[dict[str, Any]], None],
    payload: dict[str, Any],
    cluster: ClusterConfig,
    scratch: Storage,
    on_progress: OnProgress,
    *,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Run ``function(payload)`` on every worker until the chief hands in its result.

    The payload gains ``monitor`` (actor handle) and ``driver_folder`` (working directory). A worker that dies
    is replaced with its whole group, ``cluster.max_failures`` times. SIGINT and SIGTERM ask the workers to
    stop at a checkpoint; a second one ends them at once.

    Args:
        function: Importable; reports through the monitor.
        payload: Picklable settings.
        cluster: Workers and their resources.
        scratch: Folder for Ray Train's own state; the caller deletes it once Ray has ended.
        on_progress: Called with the latest progress several times a second.
        stop: Once set, asks the workers to stop as a signal would.

    Returns:
        What the chief handed to ``Monitor.finish``, with ``restarts``.

    Raises:
        RayftError: The error that a worker reported.
        RunFailed: Workers failed more often than allowed.
        RunInterrupted: A signal ended the run.
    """
    monitor: Any = Monitor.remote()  # type: ignore[attr-defined]
    trainer = _Trainer(
        function,
        tensorflow_config=WorkersOfTensorflow(),
        train_loop_config={**payload, "monitor": monitor, "driver_folder": os.getcwd(), "driver_path": sys.path},
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_resources(cluster),
        ),
        run_config=RunConfig(
            # Ray Train would resume an experiment of the same name; checkpoints here are our own.
            name=f"group-{uuid.uuid4().hex[:8]}",
            storage_path=scratch.root,
            storage_filesystem=None if scratch.is_local else scratch.filesystem,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with _stop_on_signal(monitor) as interrupted:
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            if stop is not None and stop.is_set() and not interrupted.is_set():
                interrupted.set()
                monitor.stop.remote()
            state = ray.get(monitor.read.remote())
            on_progress(state)
            # No retry would mend it, and the group would take seconds to find that out.
            if (error := ray.get(monitor.error.remote())) is not None:
                raise error
            if interrupted.is_set() and "step" not in state:
                raise RunInterrupted(
                    "Stopped before the training had begun.", "Run the same command again to start it."
                )

    error, result, state = ray.get([monitor.error.remote(), monitor.result.remote(), monitor.read.remote()])
    ray.kill(monitor)
    if error is not None:
        raise error
    if interrupted.is_set() and result is None and not failures:
        raise RunInterrupted(
            f"Stopped in epoch {state['epoch']} after step {state['step']}; the checkpoint there is kept.",
            "Run the same command again to go on.",
        )
    if failures or result is None:
        raise RunFailed(
            f"The workers failed {state['restarts'] + 1} times, cluster.max_failures is {cluster.max_failures}. "
            f"The last error:\n{_causes(failures)}",
            "Mend its cause and run the same command again; it goes on from the last checkpoint.",
        )
    return {**result, "restarts": state["restarts"]}


class _Trainer(TensorflowTrainer):
    """Leaves out Ray Data's part, which is a process a group and serves nobody here: data goes to workers as files."""

    def _create_default_callbacks(self) -> list[Any]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, DatasetsCallback)]


def _resources(cluster: ClusterConfig) -> dict[str, float]:
    resources = {"CPU": cluster.cpus_per_worker}
    return {**resources, "GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else resources


@contextlib.contextmanager
def _stop_on_signal(monitor: Any) -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into a request to stop, the second into an exception."""
    interrupted = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise RunInterrupted("Ended at once, on a second signal.", "Run the same command again to go on.")
        interrupted.set()
        monitor.stop.remote()
        print("\nstopping at a checkpoint; once more to end at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _causes(failures: list[BaseException]) -> str:
    """One line for each worker that failed, without the frames of Ray."""
    if not failures:
        return "  The chief ended without a result."
    error = failures[0]
    if not isinstance(error, WorkerGroupError):
        return f"  {_last_line(error)}"
    return "\n".join(f"  rank {rank}: {_last_line(cause)}" for rank, cause in sorted(error.worker_failures.items()))


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return textwrap.shorten(lines[-1], LINE_LENGTH, placeholder=" ...")
