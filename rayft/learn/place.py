"""This process among the workers of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rayft.errors import RunFailed
from rayft.observe.sink import SILENCE, Sink


@dataclass(frozen=True)
class Place:
    """Where this process stands, and how it hears from the chief.

    Attributes:
        rank: 0 is the chief, which alone writes.
        num_workers: Processes, one replica each.
        broadcast: Gives every rank the chief's small value; a barrier.
        alive: Called whenever something was got done, for the watchdog.
        local_workers: Processes that share this machine's memory.
        sink: Takes what this process measures, and what happens in it.
    """

    rank: int
    num_workers: int
    broadcast: Callable[[Any], Any]
    alive: Callable[[], None]
    local_workers: int = 1
    sink: Sink = SILENCE

    @property
    def is_chief(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def require_same(self, what: str, value: str) -> None:
        """Refuse to go on with ranks that differ.

        Raises:
            RunFailed: The value differs from the chief's.
        """
        # Barrier: every rank compares.
        if self.broadcast(value) != value:
            raise RunFailed(
                f"The {what} of rank {self.rank} differ from the chief's.",
                "Give all workers the same weights file and the same versions of rayft and TensorFlow.",
            )
