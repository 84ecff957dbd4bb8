"""The ASGI application: who asks, for what, and what came of it."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from rayft.serve.contract import RequestError
from rayft.serve.http.request import ClientGone, Reply, Request, error_reply
from rayft.serve.http.routes import Route, Router
from rayft.serve.keys import EVERY_MODEL, Key, Keyring
from rayft.serve.limits import Limits

ACCESS_LOGGER = "rayft.access"

_access = logging.getLogger(ACCESS_LOGGER)
_log = logging.getLogger("rayft.serve")
_SANE_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")
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

    async def __call__(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Mapping[str, Any]]],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        begun = time.perf_counter()
        request = Request(scope, receive, self._limits)
        given = request.headers.get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else os.urandom(16).hex()
        try:
            reply = await self._reply(request)
        except RequestError as error:
            reply = error_reply(error)
            if error.status == 405:
                reply.headers.append((b"allow", ", ".join(self._router.allowed(request.path)).encode()))
        except ClientGone:
            self._tell(request, request_id, 499, 0, begun)
            return
        except Exception:
            # A bug of ours: nobody may learn more from it than that.
            _log.exception("Request %s failed.", request_id)
            reply = Reply(500, b'{"error":"Internal error. Name the X-Request-Id of this reply to whom runs it."}')
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", request_id.encode()),
            *_PLAIN_HEADERS,
            *reply.headers,
        ]
        self._tell(request, request_id, reply.status, len(reply.body), begun)
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
            self._authorize(request, route)
        return await route.handler(request)

    def _authenticate(self, request: Request) -> None:
        if self._keyring is None:
            return
        presented = _presented(request.headers)
        key = None if presented is None else self._keyring.find(presented)
        if key is None:
            problem = "The request has no API key." if presented is None else "The API key is unknown or has expired."
            raise RequestError(problem, "Send it as Authorization: Bearer KEY, or as X-API-Key: KEY.", 401)
        request.key = key
        request.facts["key"] = key.name

    def _authorize(self, request: Request, route: Route) -> None:
        key = request.key
        if key is None:
            return
        asked = EVERY_MODEL if route.every_model else request.params.get("model")
        if asked is not None and not key.covers(asked):
            what = "every model" if route.every_model else "this model"
            raise RequestError(f"The key {key.name!r} is not for {what}.", "Use another key.", 403)

    def _tell(self, request: Request, request_id: str, status: int, size: int, begun: float) -> None:
        if not _access.isEnabledFor(logging.INFO):
            return
        facts = request.facts
        timing = facts.get("timing_ms", {})
        line = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "id": request_id,
            "protocol": "http",
            "method": request.method,
            "route": facts.get("route"),
            "model": facts.get("model"),
            "version": facts.get("version"),
            "status": status,
            "bytes_in": facts.get("bytes", 0),
            "bytes_out": size,
            "pictures": facts.get("pictures", 0),
            **{f"{part}_ms": round(value, 3) for part, value in timing.items()},
            "total_ms": round((time.perf_counter() - begun) * 1e3, 3),
            "key": facts.get("key"),
        }
        _access.info("%s", json.dumps(line))


def models_in_scope(key: Key | None, names: Sequence[str]) -> list[str]:
    """Return the models that a key may reach."""
    return [name for name in names if key is None or key.covers(name)]


def _presented(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request, however it is sent."""
    plain = headers.get("x-api-key")
    if plain is not None:
        return plain.strip()
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    # A page elsewhere could make a browser send this one along.
    if scheme.lower() == "basic" and headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    return None
