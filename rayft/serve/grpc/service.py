"""``inference.GRPCInferenceService``: who asks, for what, and what came of it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from rayft.serve.access import authenticate, authorize, presented_key
from rayft.serve.access_log import log_request, sane_id
from rayft.serve.contract import Engine, RequestError
from rayft.serve.grpc.infer import read_infer, write_answer
from rayft.serve.grpc.messages import SERVICE, message
from rayft.serve.keys import Keyring
from rayft.serve.limits import Limits
from rayft.serve.wire.about import model_metadata, server_metadata
from rayft.serve.wire.infer import outputs

Handler = Callable[[Any, grpc.aio.ServicerContext, dict[str, Any]], Awaitable[Any]]

_log = logging.getLogger("rayft.serve")
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


class InferenceService:
    """Answers calls.

    Args:
        engine: Answers pictures.
        keyring: None lets everybody in.
        limits: Bounds of requests.
    """

    def __init__(self, engine: Engine, keyring: Keyring | None, limits: Limits) -> None:
        self._engine = engine
        self._keyring = keyring
        self._limits = limits

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a server needs to route calls here."""
        methods: dict[str, Handler] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model,
            "ModelInfer": self._infer,
        }
        # Bytes come in as they are: what is no message is the client's fault, not ours.
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._wrapped(name, method), response_serializer=message(f"{name}Response").SerializeToString
                )
                for name, method in methods.items()
            },
        )

    def _wrapped(self, name: str, method: Handler) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Any]]:
        kind = message(f"{name}Request")
        open_to_all = method in (self._live, self._ready)

        async def call(data: bytes, context: grpc.aio.ServicerContext) -> Any:
            begun = time.perf_counter()
            headers = _texts(context.invocation_metadata() or ())
            request_id = sane_id(headers.get("x-request-id")) or os.urandom(16).hex()
            facts: dict[str, Any] = {"route": f"/{SERVICE}/{name}", "bytes": len(data)}
            status = 200
            trailing: list[tuple[str, str]] = [("x-request-id", request_id)]
            try:
                if not open_to_all and self._keyring is not None:
                    key = authenticate(self._keyring, presented_key(headers))
                    facts["key"] = key.name
                request = _parsed(kind, data)
                if not open_to_all and self._keyring is not None:
                    authorize(key, _model_of(request))
                answer = await method(request, context, facts)
                context.set_trailing_metadata(tuple(trailing))
                return answer
            except RequestError as error:
                status = error.status
                if error.retry_after_s is not None or status in (429, 503):
                    trailing.append(("retry-after", str(max(1, math.ceil(error.retry_after_s or 1)))))
                code = _CODES.get(status, grpc.StatusCode.INVALID_ARGUMENT)
                await context.abort(code, " ".join(error.args[:2]), tuple(trailing))
            except asyncio.CancelledError:
                # The client has gone.
                status = 499
                raise
            except Exception:
                status = 500
                _log.exception("Request %s failed.", request_id)
                await context.abort(grpc.StatusCode.INTERNAL, "Internal error.", tuple(trailing))
            finally:
                log_request("grpc", request_id, name, status, facts, begun)

        return call

    async def _live(self, request: Any, context: grpc.aio.ServicerContext, facts: dict[str, Any]) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, context: grpc.aio.ServicerContext, facts: dict[str, Any]) -> Any:
        return message("ServerReadyResponse")(ready=self._engine.ready)

    async def _server(self, request: Any, context: grpc.aio.ServicerContext, facts: dict[str, Any]) -> Any:
        return message("ServerMetadataResponse")(**server_metadata())

    async def _model_ready(self, request: Any, context: grpc.aio.ServicerContext, facts: dict[str, Any]) -> Any:
        try:
            self._engine.find(request.name, request.version or None)
        except RequestError as error:
            if error.status not in (404, 503):
                raise
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=True)

    async def _model(self, request: Any, context: grpc.aio.ServicerContext, facts: dict[str, Any]) -> Any:
        model = self._engine.find(request.name, request.version or None)
        versions = [other.version for other in self._engine.models() if other.name == model.name]
        return message("ModelMetadataResponse")(**model_metadata(model, versions))

    async def _infer(self, request: Any, context: grpc.aio.ServicerContext, facts: dict[str, Any]) -> Any:
        begun = time.monotonic()
        name, version = request.model_name, request.model_version or None
        self._engine.find(name, version)
        parsed = read_infer(request)
        self._limits.check_count(len(parsed.pictures))
        waits = (self._limits.deadline_s, parsed.timeout_s, context.time_remaining())
        deadline = begun + min(wait for wait in waits if wait is not None)
        answered = await self._engine.answer(name, version, parsed.pictures, deadline=deadline)
        facts |= {
            "model": answered.model.name,
            "version": answered.model.version,
            "pictures": len(answered.probabilities),
            "timing_ms": answered.timing_ms,
        }
        return write_answer(answered.model, parsed.id, outputs(answered.model, answered.probabilities, parsed.wanted))


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise RequestError(f"The bytes are no {kind.DESCRIPTOR.name}.", "Use a client of the protocol.") from None


def _model_of(request: Any) -> str | None:
    """Return the model that a request names; None if it is about the server."""
    fields = request.DESCRIPTOR.fields_by_name
    return next((getattr(request, field) for field in ("model_name", "name") if field in fields), None)


def _texts(metadata: Any) -> Mapping[str, str]:
    return {name: value for name, value in metadata if isinstance(value, str)}
