"""A group of TensorFlow workers under Ray Train, watched from the driver."""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rayft.config import ClusterConfig
from rayft.distributed.backend import WorkersOfTensorflow
from rayft.distributed.cluster import has_ended, on_this_node
from rayft.distributed.monitor import Monitor
from rayft.distributed.signals import SIGNAL_LAG_S, noted_signals
from rayft.errors import RayftError, RunFailed, RunInterrupted
from rayft.observe.sink import OnLine
from rayft.storage import Storage

POLL_S = 0.3
ANSWER_S = 10.0
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
    on_event: OnLine = lambda line: None,
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
        on_event: Called with the lines that workers have for the log.

    Returns:
        What the chief handed to ``Monitor.finish``, with ``restarts``.

    Raises:
        RayftError: The error that a worker reported.
        RunFailed: Workers failed more often than allowed.
        RunInterrupted: A signal ended the run.
    """
    monitor = _start_monitor()
    trainer = _Trainer(
        function,
        backend_config=WorkersOfTensorflow(),
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
    again = RunInterrupted("Ended at once, on a second signal.", "Run the same command again to go on.")
    with noted_signals("stopping at a checkpoint", again) as interrupted, _lost_ray_in_words(interrupted):
        thread.start()
        told = False
        while thread.is_alive():
            thread.join(POLL_S)
            if stop is not None and stop.is_set():
                interrupted.set()
            if interrupted.is_set() and not told:
                monitor.stop.remote()
                told = True
            # The monitor may answer for a while yet, but no group will ever end.
            if has_ended():
                raise _lost("its own processes have ended", interrupted)
            # The error first: what its worker said of it then is among the lines.
            error, state, lines = _ask(
                [monitor.error.remote(), monitor.read.remote(), monitor.take_lines.remote()], interrupted
            )
            for line in lines:
                on_event(line)
            on_progress(state)
            # No retry would mend it, and the group would take seconds to find that out.
            if error is not None:
                raise error
            if interrupted.is_set() and "step" not in state:
                raise RunInterrupted(
                    "Stopped before the training had begun.", "Run the same command again to start it."
                )
        error, result, state, lines = _ask(
            [monitor.error.remote(), monitor.result.remote(), monitor.read.remote(), monitor.take_lines.remote()],
            interrupted,
        )
    for line in lines:
        on_event(line)
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


class _Trainer(DataParallelTrainer):
    """Ray's ``TensorflowTrainer``, which adds nothing but an import of TensorFlow to the driver: 5 s of start-up.

    Two parts of Ray Train are left out, each a process a group.

    Ray Data's serves nobody here: data goes to workers as files. The cleaner of placement groups outlives a controller
    that is killed, and its job, for ever; a group goes with its job, or with ``reap_placement_groups`` before.
    """

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, left_out)]


def _start_monitor() -> Any:
    """Start the monitor on this process's own machine.

    Ray would draw one by lot. The loss of a worker's machine could then end the run; and workers whose driver is lost
    with its machine could write on beside those of the next driver, where they now wait for an answer until they end.
    """
    return Monitor.options(scheduling_strategy=on_this_node()).remote()  # type: ignore[attr-defined]


def _resources(cluster: ClusterConfig) -> dict[str, float]:
    resources = {"CPU": cluster.cpus_per_worker}
    return {**resources, "GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else resources


def _ask(questions: list[Any], interrupted: threading.Event) -> list[Any]:
    """Return the answers; after a signal, which may have ended Ray itself, only wait for a while."""
    while True:
        was_interrupted = interrupted.is_set()
        try:
            return ray.get(questions, timeout=ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            if was_interrupted:
                raise


@contextlib.contextmanager
def _lost_ray_in_words(interrupted: threading.Event) -> Iterator[None]:
    """Say what it means that the monitor is lost."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise _lost(_last_line(error), interrupted) from error


def _lost(reason: str, interrupted: threading.Event) -> RayftError:
    """Describe the end of Ray itself, as a signal to the whole process group brings it about."""
    if not interrupted.is_set():
        # The signal of Ray's own processes may be ahead of this one's.
        time.sleep(SIGNAL_LAG_S)
    if interrupted.is_set():
        return RunInterrupted(
            "Stopped by a signal that ended Ray's own processes as well; the last checkpoint is kept.",
            "Run the same command again to go on. Signal the driver alone for a checkpoint at the very step.",
        )
    return RunFailed(
        f"Ray itself has failed: {reason}.", "Run the same command again; it goes on from the last checkpoint."
    )


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
