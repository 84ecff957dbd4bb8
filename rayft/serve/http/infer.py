"""Routes of the Open Inference Protocol v2."""

from __future__ import annotations

from rayft.serve.contract import Engine, RequestError
from rayft.serve.http import operations
from rayft.serve.http.answer import answer_request, with_origin
from rayft.serve.http.request import Reply, Request, json_reply
from rayft.serve.http.routes import Route
from rayft.serve.limits import Limits
from rayft.serve.wire.about import model_metadata, server_metadata
from rayft.serve.wire.infer import outputs
from rayft.serve.wire.infer_rest import HEADER_LENGTH, parse_infer, write_infer
from rayft.serve.wire.json_text import JSON

_BINARY = "application/octet-stream"
_VERSIONS = ("", "/versions/{version}")


def infer_routes(engine: Engine, limits: Limits) -> list[Route]:
    """Return the routes below ``/v2``."""

    async def infer(request: Request) -> Reply:
        engine.find(request.params["model"], request.params.get("version"))
        request.query()
        parsed = parse_infer(await request.body(), request.headers.get(HEADER_LENGTH.lower()))
        answered = await answer_request(engine, limits, request, parsed.pictures, parsed.timeout_s)
        tensors = outputs(answered.model, answered.probabilities, parsed.wanted)
        body, length = write_infer(answered.model, parsed.id, tensors)
        reply = Reply(200, body, JSON if length is None else _BINARY)
        if length is not None:
            reply.headers.append((HEADER_LENGTH.encode(), b"%d" % length))
        return with_origin(reply, answered)

    async def metadata(request: Request) -> Reply:
        model = engine.find(request.params["model"], request.params.get("version"))
        return json_reply(model_metadata(model, versions_of(engine, model.name)))

    async def model_ready(request: Request) -> Reply:
        model = engine.find(request.params["model"], request.params.get("version"))
        return json_reply({"name": model.name, "ready": True})

    async def server(request: Request) -> Reply:
        return json_reply(server_metadata())

    routes = [
        Route("POST", f"/v2/models/{{model}}{version}/infer", infer, operations.infer(bool(version)))
        for version in _VERSIONS
    ]
    routes += [
        Route("GET", f"/v2/models/{{model}}{version}", metadata, operations.model_metadata(bool(version)))
        for version in _VERSIONS
    ]
    routes += [
        Route("GET", f"/v2/models/{{model}}{version}/ready", model_ready, operations.model_ready(bool(version)))
        for version in _VERSIONS
    ]
    return [*routes, Route("GET", "/v2", server, operations.server_metadata())]


def health_routes(engine: Engine) -> list[Route]:
    """Return the routes that answer whether the process lives, and whether it may be sent requests."""

    async def live(request: Request) -> Reply:
        return json_reply({"live": True})

    async def ready(request: Request) -> Reply:
        if not engine.ready:
            raise RequestError("Models are being loaded.", "Try again in a moment.", 503)
        return json_reply({"ready": True})

    return [
        Route("GET", f"{start}/{path}", handler, operation(), open=True)
        for start in ("/health", "/v2/health")
        for path, handler, operation in (("live", live, operations.live), ("ready", ready, operations.ready))
    ]


def versions_of(engine: Engine, name: str) -> list[str]:
    """Return the versions of a model that are served."""
    return [model.version for model in engine.models() if model.name == name]
