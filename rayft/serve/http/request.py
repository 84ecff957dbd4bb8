"""A request over HTTP as its handlers see it; the reply they give."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from rayft.serve.contract import Answered, RequestError
from rayft.serve.keys import Key
from rayft.serve.limits import HeldBytes, Limits
from rayft.serve.wire.json_text import JSON, dump, shown

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

TIMEOUT_HEADER = "x-request-timeout-seconds"
_MAX_QUERY = 20


@dataclass
class Reply:
    """What goes back to the client."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


def json_reply(content: Any) -> Reply:
    """Return a reply of JSON."""
    return Reply(200, dump(content))


def error_reply(error: RequestError) -> Reply:
    """Return the reply that says what was wrong, in the one form of every error."""
    reply = Reply(error.status, dump({"error": " ".join(error.args[:2])}))
    if error.retry_after_s is not None or error.status in (429, 503):
        seconds = max(1, math.ceil(error.retry_after_s or 1))
        reply.headers.append((b"retry-after", str(seconds).encode()))
    if error.status == 401:
        # A browser asks its user for the second: any name, and the key as the password.
        reply.headers += [(b"www-authenticate", b'Bearer realm="rayft"'), (b"www-authenticate", b'Basic realm="rayft"')]
    return reply


class Request:
    """One request.

    Args:
        scope: As ASGI describes it.
        receive: Gives the parts of the body.
        limits: Bounds of it.
        memory: Bounds all bodies together.

    Attributes:
        params: The parts of the path that its route names.
        headers: By name in lower case; the last of equals.
        key: Whose it is; None where no key is needed.
        facts: What the access log says of it.
        held: Bytes of its body that were taken from ``memory``; whoever made the request gives them back.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Receive, limits: Limits, memory: HeldBytes) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.params: dict[str, str] = {}
        self.key: Key | None = None
        self.facts: dict[str, Any] = {}
        self.held = 0
        self._memory = memory
        self._query: bytes = scope["query_string"]
        self._receive = receive
        self._limits = limits
        self._begun = time.monotonic()

    @property
    def media_type(self) -> str:
        """The content type, without parameters, in lower case; empty if none is said."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def deadline(self, timeout_s: float | None = None) -> float:
        """Return the ``time.monotonic()`` at which nobody waits any more.

        Args:
            timeout_s: What the body says, if it does.

        Raises:
            RequestError: 400: the header that lowers it holds no time.
        """
        allowed = self._limits.deadline_s if timeout_s is None else min(timeout_s, self._limits.deadline_s)
        header = self.headers.get(TIMEOUT_HEADER)
        if header is not None:
            try:
                asked = float(header)
            except ValueError:
                asked = math.nan
            if not 0 < asked < math.inf:
                raise RequestError(
                    f"X-Request-Timeout-Seconds is {shown(header)}; a number above 0 is allowed.", "Leave it out."
                )
            allowed = min(allowed, asked)
        return self._begun + allowed

    def query(self, *allowed: str) -> dict[str, str]:
        """Return the parameters behind the path.

        Raises:
            RequestError: 400: there is another one than allowed, or one twice.
        """
        if not self._query:
            return {}
        try:
            pairs = parse_qsl(self._query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_QUERY)
        except ValueError:
            raise RequestError("The query has too many parameters.", "Leave them out.") from None
        found = dict(pairs)
        unknown = [name for name in found if name not in allowed]
        # Never their values, which may be secrets.
        if unknown:
            names = " and ".join(allowed) or "none"
            raise RequestError(f"The query has {shown(unknown[0])}; {names} is allowed.", "Leave it out.")
        if len(found) < len(pairs):
            raise RequestError("A parameter of the query is there twice.", "Say it once.")
        return found

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            RequestError: 413 too large, before it is read; 415 compressed; 408 it comes too slowly; 429 there are too
                many others.
        """
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise RequestError(f"Content-Encoding is {shown(encoding)}; identity is allowed.", "Send it as it is.", 415)
        limit = self._limits.max_body_bytes
        length = self.headers.get("content-length", "")
        # The parser of HTTP has refused what is no number.
        if length and int(length) > limit:
            raise _too_large(limit)
        parts = []
        watch = _Watch()
        try:
            while True:
                watch.wait(self._patience())
                message = await self._receive()
                if message["type"] != "http.request":
                    raise ClientGone
                part = message["body"]
                if self.held + len(part) > limit:
                    raise _too_large(limit)
                self._memory.take(len(part))
                self.held += len(part)
                parts.append(part)
                if not message.get("more_body"):
                    break
        except asyncio.CancelledError:
            if not watch.barked():
                raise
            raise RequestError("The body comes too slowly.", "Send it faster, or in smaller requests.", 408) from None
        finally:
            watch.stop()
        self.facts["bytes"] = self.held
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def answered(self, answered: Answered) -> None:
        """Keep what the access log and the reply say of an answer."""
        self.facts |= {
            "model": answered.model.name,
            "version": answered.model.version,
            "pictures": len(answered.probabilities),
            "timing_ms": answered.timing_ms,
        }

    def _patience(self) -> float:
        left = self._begun + self._limits.deadline_s - time.monotonic()
        return max(0.0, min(self._limits.slow_client_s, left))


class ClientGone(Exception):
    """The client has closed the connection; nobody waits for a reply."""


class _Watch:
    """Cancels the task that it is used in when it waits too long; ``asyncio.timeout`` needs Python 3.11."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._barked = False

    def wait(self, seconds: float) -> None:
        self.stop()
        self._timer = self._loop.call_later(seconds, self._bark)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def barked(self) -> bool:
        """Tell whether the cancellation was its own, which is then undone."""
        if self._barked and sys.version_info >= (3, 11):
            self._task.uncancel()
        return self._barked

    def _bark(self) -> None:
        self._barked = True
        self._task.cancel()


def _too_large(limit: int) -> RequestError:
    return RequestError(f"The body is larger than {limit:,} bytes.", "Send fewer or smaller pictures.", 413)
