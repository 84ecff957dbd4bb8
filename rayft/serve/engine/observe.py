"""What the engine tells those who measure it."""

from __future__ import annotations

from typing import Protocol

from rayft.serve.contract import ServedModel


class Observer(Protocol):
    """Hears of what happens; is called from several threads, and must be quick."""

    def batch(self, rows: int, size: int, seconds: float) -> None:
        """Hear of one pass.

        Args:
            rows: Pictures in it.
            size: The same with the padding.
            seconds: Its time.
        """

    def answered(self, model: ServedModel, pictures: int, seconds: float) -> None:
        """Hear of an answered request."""

    def refused(self, model: str, status: int) -> None:
        """Hear of a request that got no answer."""

    def load(self, queued: int, in_flight: int) -> None:
        """Hear how many pictures wait, and how many are in the house."""


class Silence:
    """The observer of an engine that nobody measures."""

    def batch(self, rows: int, size: int, seconds: float) -> None:
        """Ignore."""

    def answered(self, model: ServedModel, pictures: int, seconds: float) -> None:
        """Ignore."""

    def refused(self, model: str, status: int) -> None:
        """Ignore."""

    def load(self, queued: int, in_flight: int) -> None:
        """Ignore."""
