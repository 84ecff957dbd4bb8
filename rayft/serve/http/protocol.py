"""HTTP connections that cannot be held for ever, nor be made to keep what nobody reads."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from rayft.serve.limits import Limits
from rayft.serve.wire.json_text import dump

SWEEP_S = 0.5
_MAX_HEAD_BYTES = 64 << 10
# Of a refused body that goes on coming, so much is thrown away, and for so long, before the connection ends: at
# once, its client would see a broken connection instead of the refusal.
_LINGER_BYTES = 64 << 20
_LINGER_S = 10.0
_log = logging.getLogger("rayft.serve.connection")
# Whatever clients send must not fill the log.
_log.setLevel(logging.ERROR)


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    The head of a request must come within ``slow_client_s``, in at most 64 KiB; ``sweep`` ends connections that
    break this. The application bounds bodies.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _log
        self.access_log = False
        self._limits = limits
        # Spread, or all clients of a burst would come back at once.
        self._left = round(limits.requests_per_connection * random.uniform(0.8, 1.2))
        self._head_since: float | None = None
        self._head_bytes = 0
        self._arriving = False
        self._lingering_since: float | None = None
        self._discarded = 0
        self._unread: tuple[int, float] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse one too many."""
        if len(self.connections) >= self._limits.max_connections:
            self.transport = transport
            self._refuse(503, "Too many connections. Try again in a moment.")
            return
        super().connection_made(transport)
        self._head_since = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a head are counted."""
        if self._head_since is None and not self._arriving and (self.cycle is None or self.cycle.response_complete):
            self._head_since = time.monotonic()
        super().data_received(data)
        if self._head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, f"The head of the request is larger than {_MAX_HEAD_BYTES} bytes. Send less.")

    def on_headers_complete(self) -> None:
        """Start the answer."""
        self._head_since, self._head_bytes, self._arriving = None, 0, True
        super().on_headers_complete()
        self._left -= 1
        if self._left <= 0:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body, unless it has been answered already."""
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _LINGER_BYTES:
                self.transport.abort()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is here."""
        self._arriving, self._lingering_since = False, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one."""
        if self._arriving:
            self._lingering_since = time.monotonic()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, "The request is not HTTP/1.1. Check the client.")

    def check(self, now: float) -> None:
        """End the connection if its client is too slow."""
        if self._head_since is not None and now - self._head_since > self._limits.slow_client_s:
            if self.transport.is_closing():
                self.transport.abort()
            else:
                self._refuse(408, "The head of the request comes too slowly. Send it faster.")
                self._head_since = now
        elif self._lingering_since is not None and now - self._lingering_since > _LINGER_S:
            self.transport.abort()
        # An answer that nobody reads would stay in memory.
        unread = self.transport.get_write_buffer_size()
        if not unread or self._unread is None or unread != self._unread[0]:
            self._unread = (unread, now) if unread else None
        elif now - self._unread[1] > self._limits.slow_client_s:
            self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        body = dump({"error": message})
        head = [
            STATUS_LINE[status],
            b"content-type: application/json\r\nconnection: close\r\n",
            b"retry-after: 1\r\n" if status == 503 else b"",
            b"content-length: %d\r\n\r\n" % len(body),
        ]
        self.transport.write(b"".join([*head, body]))
        self.transport.close()


async def sweep(connections: Iterable[BoundedProtocol]) -> None:
    """Check all connections for ever; ends by cancellation."""
    while True:
        await asyncio.sleep(SWEEP_S)
        now = time.monotonic()
        for connection in list(connections):
            connection.check(now)
