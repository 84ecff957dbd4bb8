"""The command that an endpoint on a standing cluster belongs to; without it, the endpoint ends."""

from __future__ import annotations

import threading
import time

import ray
from ray import serve

from rayft.serve.declare import APP_NAME

_LOOK_S = 5.0


class Owner:
    """Watches the Ray job of the command from a replica.

    Serve's own actors outlive whoever started them, so a command that was killed would leave its endpoint behind.

    Args:
        job: Hexadecimal id of the job.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._look_at = 0.0

    def look(self) -> None:
        """Take the endpoint away where its command has ended; asks the cluster every few seconds."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        if any(job["JobID"] == self._job and job["IsDead"] for job in ray._private.state.jobs()):
            # It ends with this replica.
            threading.Thread(target=take_away, name="rayft-take-away", daemon=True).start()


def take_away() -> None:
    """Let Serve end the endpoint once its replicas have drained, and itself where nothing else runs on it."""
    if set(serve.status().applications) <= {APP_NAME}:
        serve.shutdown()
    else:
        serve.delete(APP_NAME, _blocking=False)
