"""The desk between workers and the process that a person watches."""

from __future__ import annotations

from typing import Any

import ray

from rayft.errors import RayftError
from rayft.observe.sink import Line


@ray.remote(num_cpus=0)
class Monitor:
    """Holds the latest progress, what happened, the request to stop, and an error that no retry would mend."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._state: dict[str, Any] = {"phase": "waiting for workers"}
        self._stop = False
        self._lines: list[Line] = []
        self._starts = 0
        self._error: RayftError | None = None
        self._result: dict[str, Any] | None = None

    def start(self) -> int:
        """Count one more start of the worker group; returns the number of starts before."""
        self._starts += 1
        return self._starts - 1

    def update(self, state: dict[str, Any]) -> bool:
        """Take the chief's progress; returns whether the run is asked to stop."""
        self._state = state
        return self._stop

    def read(self) -> dict[str, Any]:
        """Return the latest progress."""
        return {**self._state, "restarts": max(self._starts - 1, 0)}

    def log(self, line: Line) -> None:
        """Take what a worker says of an event."""
        self._lines.append(line)

    def take_lines(self) -> list[Line]:
        """Return what workers said since the last time."""
        lines, self._lines = self._lines, []
        return lines

    def stop(self) -> None:
        """Ask the workers to checkpoint and end."""
        self._stop = True

    def fail(self, error: RayftError) -> None:
        """Keep the first error that no retry would mend."""
        self._error = self._error or error

    def error(self) -> RayftError | None:
        """Return the error kept, if any."""
        return self._error

    def finish(self, result: dict[str, Any]) -> None:
        """Take what the chief has to say at the end."""
        self._result = result

    def result(self) -> dict[str, Any] | None:
        """Return what the chief said at the end, if it came to that."""
        return self._result
