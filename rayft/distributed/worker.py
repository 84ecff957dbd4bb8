"""What each training worker does, from its first line to the package."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective

from rayft.config import RunConfig
from rayft.distributed.devices import plan_devices, prepare_tensorflow
from rayft.errors import RayftError
from rayft.runs import RunFolder


def run_worker(payload: dict[str, Any]) -> None:
    """Train one worker's share; Ray Train calls this on every rank.

    Args:
        payload: config (dumped), dataset, monitor, driver_folder, driver_path.
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
    with _watchdog(config, rank) as alive:
        try:
            _session(config, payload["dataset"], rank, context.get_world_size(), monitor, alive)
        except RayftError as error:
            ray.get(monitor.fail.remote(error))
            raise


def enter_driver_folder(payload: dict[str, Any]) -> None:
    """Make relative paths and import paths mean what they mean to the person at the driver."""
    if os.path.isdir(payload["driver_folder"]):
        os.chdir(payload["driver_folder"])
    sys.path.extend(path for path in payload["driver_path"] if path not in sys.path)


@contextlib.contextmanager
def _watchdog(config: RunConfig, rank: int) -> Iterator[Callable[[], None]]:
    """End this process when ``alive`` is not called for cluster.stall_timeout_s.

    The timer is a C thread of faulthandler, which works although Python is stuck. It writes where every
    thread stood to ``stall-rank<n>.txt``, then Ray Train replaces the group.
    """
    place = RunFolder.of(config).stall_report(rank)
    path = Path(place.root) if place.is_local else Path(tempfile.gettempdir()) / place.name
    with path.open("w") as file:

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
    config: RunConfig, dataset: Any, rank: int, num_workers: int, monitor: Any, alive: Callable[[], None]
) -> None:
    strategy = prepare_tensorflow(plan_devices(config.cluster))
    from rayft.learn.session import Place, run_session

    alive()
    place = Place(rank, num_workers, ray.train.collective.broadcast_from_rank_zero, alive)
    result = run_session(config, dataset, place, lambda state: ray.get(monitor.update.remote(state)), strategy)
    if result is not None:
        ray.get(monitor.finish.remote(result))
