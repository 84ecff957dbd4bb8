"""What each training worker does, from its first line to the package."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import re
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.collective

from rayft.config import RunConfig
from rayft.distributed.devices import plan_devices, prepare_tensorflow
from rayft.distributed.export import RaySink
from rayft.errors import RayftError, RunFailed
from rayft.observe.sink import Sink
from rayft.runs import RunFolder


def run_worker(payload: dict[str, Any]) -> None:
    """Train one worker's share; Ray Train calls this on every rank.

    Args:
        payload: config (dumped), dataset, monitor, driver_folder, driver_path; output, where it is not the
            config's own run folder; run and trial, where metrics and log name them otherwise than the config.
    """
    monitor = payload["monitor"]
    # After an error that no retry would mend, Ray Train's retry ends here.
    if ray.get(monitor.error.remote()) is not None:
        return
    enter_driver_folder(payload)
    config = RunConfig.model_validate(payload["config"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    if rank == 0:
        ray.get(monitor.start.remote())
    output = payload.get("output")
    folder = output["folder"] if output else RunFolder.of(config)
    sink = RaySink(
        lambda line: monitor.log.remote(line),
        run=payload.get("run", config.name),
        trial=payload.get("trial", ""),
        rank=rank,
    )
    sink.event("worker_started", host=socket.gethostname(), pid=os.getpid(), workers=context.get_world_size())
    with watchdog(config, folder, rank) as alive, report_final_errors(monitor, rank), _failure_logged(sink):
        _session(config, payload["dataset"], rank, context.get_world_size(), monitor, alive, output, sink)


@contextlib.contextmanager
def report_final_errors(monitor: Any, rank: int) -> Iterator[None]:
    """Tell the driver about errors that a retry would meet again; every error goes on to Ray Train."""
    try:
        yield
    except RayftError as error:
        ray.get(monitor.fail.remote(error))
        raise
    # The user's own code may raise anything.
    except Exception as error:
        if not _follows_a_lost_peer(error):
            problem = describe_error(error, f"Worker {rank}")
            ray.get(monitor.fail.remote(RunFailed(problem, "Mend that line, then run the same command again.")))
        raise


@contextlib.contextmanager
def _failure_logged(sink: RaySink) -> Iterator[None]:
    try:
        yield
    # The user's own code may raise anything.
    except Exception as error:
        problem = str(error.args[0]) if isinstance(error, RayftError) else describe_error(error, f"Worker {sink.rank}")
        sink.event("worker_failed", level="error", problem=problem)
        raise


def _follows_a_lost_peer(error: Exception) -> bool:
    """Whether a worker gets such an error when another one dies in the middle of a collective."""
    from tensorflow import errors

    lost = (
        errors.AbortedError,
        errors.CancelledError,
        errors.DeadlineExceededError,
        errors.FailedPreconditionError,
        errors.InternalError,
        errors.UnavailableError,
        errors.UnknownError,
    )
    return isinstance(error, (*lost, ray.exceptions.RayError))


def describe_error(error: Exception, who: str) -> str:
    """Put an unforeseen error into one line: whose, what, and in which line of which file."""
    text = str(error).strip()
    # AutoGraph puts the frames of the user's functions into the message.
    frames = re.findall(r'File "([^"]+)", line (\d+)', text)
    if not frames:
        frames = [(frame.filename, str(frame.lineno)) for frame in traceback.extract_tb(error.__traceback__)]
    file, line = frames[-1]
    last = text.splitlines()[-1].strip() if text else "no message"
    return (
        f"{who} failed with {type(error).__name__}: {last.removeprefix(f'{type(error).__name__}: ')} "
        f"({file}, line {line})."
    )


def broadcast(value: Any) -> Any:
    """Return rank 0's value on every rank; a collective.

    It travels as bytes, since Ray passes it through an actor that would import TensorFlow to read some of our types.
    """
    return pickle.loads(ray.train.collective.broadcast_from_rank_zero(pickle.dumps(value)))


def enter_driver_folder(payload: dict[str, Any]) -> None:
    """Make relative paths and import paths mean what they mean to the person at the driver."""
    if os.path.isdir(payload["driver_folder"]):
        os.chdir(payload["driver_folder"])
    sys.path.extend(path for path in payload["driver_path"] if path not in sys.path)


@contextlib.contextmanager
def watchdog(config: RunConfig, folder: RunFolder, rank: int) -> Iterator[Callable[[], None]]:
    """End this process when ``alive`` is not called for cluster.stall_timeout_s.

    The timer is a C thread of faulthandler, which works although Python is stuck. It writes where every
    thread stood to ``stall-rank<n>.txt``, then Ray Train replaces the group. What an earlier worker of this
    rank wrote there is kept.
    """
    place = folder.stall_report(rank)
    path = Path(place.root) if place.is_local else Path(tempfile.gettempdir()) / place.name
    with path.open("a") as file:

        def alive() -> None:
            faulthandler.dump_traceback_later(config.cluster.stall_timeout_s, exit=True, file=file)

        alive()
        try:
            yield alive
        finally:
            faulthandler.cancel_dump_traceback_later()
    if path.stat().st_size == 0:
        path.unlink()


def _session(
    config: RunConfig,
    dataset: Any,
    rank: int,
    num_workers: int,
    monitor: Any,
    alive: Callable[[], None],
    output: dict[str, Any] | None,
    sink: Sink,
) -> None:
    strategy = prepare_tensorflow(plan_devices(config.cluster))
    from rayft.learn.place import Place
    from rayft.learn.session import Output, run_session

    alive()
    local_workers = ray.train.get_context().get_local_world_size()
    place = Place(rank, num_workers, broadcast, alive, local_workers, sink)
    result = run_session(
        config,
        dataset,
        place,
        lambda state: ray.get(monitor.update.remote(state)),
        strategy,
        output=Output(**output) if output else None,
    )
    if result is not None:
        ray.get(monitor.finish.remote(result))
