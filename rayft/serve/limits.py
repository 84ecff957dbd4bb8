"""Bounds of what one client may ask of an endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from rayft.serve.contract import RequestError


@dataclass(frozen=True)
class Limits:
    """Bounds of one process's listeners.

    Attributes:
        deadline_s: Longest time of a request; a client may ask for less.
        max_body_bytes: Largest body, or gRPC message.
        max_held_bytes: Most bytes of all bodies that are being read or answered; past it, 429.
        max_pictures: Most pictures in a request.
        slow_client_s: Longest time for the head of a request; longest pause within a body.
        max_connections: Most open connections.
        drain_s: Longest wait, at a stop, for the answers that are under way.
        requests_per_connection: After about so many a connection ends, so that clients spread over new replicas.
    """

    deadline_s: float = 30.0
    max_body_bytes: int = 16_000_000
    max_held_bytes: int = 512_000_000
    max_pictures: int = 128
    slow_client_s: float = 20.0
    max_connections: int = 1000
    drain_s: float = 20.0
    requests_per_connection: int = 1000

    def check_count(self, pictures: int) -> None:
        """Refuse more pictures than a request may have.

        Raises:
            RequestError: 413.
        """
        if pictures > self.max_pictures:
            raise RequestError(
                f"The request has {pictures} pictures; {self.max_pictures} are allowed.", "Send several requests.", 413
            )


class HeldBytes:
    """The bytes of bodies that a process holds at the moment.

    Args:
        limit: Most of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0

    def take(self, size: int) -> None:
        """Hold more.

        Raises:
            RequestError: 429: that would be too many.
        """
        if self._held + size > self._limit:
            raise RequestError("Too many bytes of other requests wait.", "Try again in a moment.", 429)
        self._held += size

    def give_back(self, size: int) -> None:
        """Hold less."""
        self._held -= size
