"""Where the code that computes says what it measured and what happened, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Literal, Protocol

Level = Literal["info", "warning", "error"]
Line = dict[str, Any]
OnLine = Callable[[Line], None]


class Sink(Protocol):
    """Takes figures and events of one process."""

    def record(self, name: str, value: float, **labels: str) -> None:
        """Take a figure.

        Args:
            name: Of the table ``rayft.observe.names``.
            value: What a gauge stands at now, or how much a counter has grown; one that is not finite is left out.
            labels: Those that are not of the whole process, such as ``metric``.
        """

    def event(self, event: str, *, level: Level = "info", **fields: Any) -> None:
        """Take note of what happened.

        Args:
            event: One of docs/observability.md.
            level: How much it should worry.
            fields: What is to know about it, as JSON can hold it.
        """


class Silence:
    """The sink of a process that nobody watches."""

    def record(self, name: str, value: float, **labels: str) -> None:
        """Ignore."""

    def event(self, event: str, *, level: Level = "info", **fields: Any) -> None:
        """Ignore."""


SILENCE = Silence()


class Events:
    """Makes lines of the events of one process, and nothing of figures.

    Attributes:
        run: Name of the run or sweep.
        trial: Of a sweep; empty outside of one.
        rank: Of a worker; None in the driver.
    """

    def __init__(self, write: OnLine, *, run: str, trial: str = "", rank: int | None = None) -> None:
        """Send each line to ``write``."""
        self.run, self.trial, self.rank = run, trial, rank
        self._write = write

    def record(self, name: str, value: float, **labels: str) -> None:
        """Ignore."""

    def event(self, event: str, *, level: Level = "info", **fields: Any) -> None:
        """Write the line."""
        self._write(
            {
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "level": level,
                "run": self.run,
                "trial": self.trial,
                "rank": self.rank,
                "event": event,
                "fields": fields,
            }
        )
