"""The ASGI application: who asks, for what, and what came of it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rayft.serve.access import authenticate, authorize, presented_key
from rayft.serve.access_log import log_request, sane_id
from rayft.serve.contract import RequestError
from rayft.serve.http.request import ClientGone, Reply, Request, error_reply
from rayft.serve.http.routes import Route, Router
from rayft.serve.keys import EVERY_MODEL, Keyring
from rayft.serve.limits import HeldBytes, Limits

_log = logging.getLogger("rayft.serve")
_PLAIN_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Application:
    """Answers requests over ASGI; every reply is logged, without payload, query or key.

    Args:
        routes: The busiest first.
        keyring: None lets everybody in.
        limits: Bounds of requests.
    """

    def __init__(self, routes: Sequence[Route], keyring: Keyring | None, limits: Limits) -> None:
        self._router = Router(routes)
        self._keyring = keyring
        self._limits = limits
        self._memory = HeldBytes(limits.max_held_bytes)

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        begun = time.perf_counter()
        request = Request(scope, receive, self._limits, self._memory)
        request_id = sane_id(request.headers.get("x-request-id")) or os.urandom(16).hex()
        try:
            reply = await self._reply(request)
        except RequestError as error:
            reply = error_reply(error)
            if error.status == 405:
                reply.headers.append((b"allow", ", ".join(self._router.allowed(request.path)).encode()))
        except ClientGone:
            log_request("http", request_id, request.method, 499, request.facts, begun)
            return
        except Exception:
            # A bug of ours: nobody may learn more from it than that.
            _log.exception("Request %s failed.", request_id)
            reply = Reply(500, b'{"error":"Internal error. Name the X-Request-Id of this reply to whom runs it."}')
        finally:
            self._memory.give_back(request.held)
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", request_id.encode()),
            *_PLAIN_HEADERS,
            *reply.headers,
        ]
        log_request("http", request_id, request.method, reply.status, request.facts, begun, len(reply.body))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, request: Request) -> Reply:
        try:
            route, request.params = self._router.find(request.method, request.path)
        except RequestError:
            # Without a key nobody learns which paths there are.
            self._authenticate(request)
            raise
        request.facts["route"] = route.template
        if not route.open:
            self._authenticate(request)
            if request.key is not None:
                authorize(request.key, EVERY_MODEL if route.every_model else request.params.get("model"))
        return await route.handler(request)

    def _authenticate(self, request: Request) -> None:
        if self._keyring is not None:
            request.key = authenticate(self._keyring, presented_key(request.headers))
            request.facts["key"] = request.key.name
