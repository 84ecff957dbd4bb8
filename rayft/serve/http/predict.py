"""Routes of predictions and explanations, in the paths of TensorFlow Serving."""

from __future__ import annotations

from rayft.serve.contract import Engine, RequestError
from rayft.serve.http import operations
from rayft.serve.http.answer import answer_request, with_origin
from rayft.serve.http.request import Reply, Request, json_reply
from rayft.serve.http.routes import Route
from rayft.serve.limits import Limits
from rayft.serve.wire.form import parse_form
from rayft.serve.wire.json_text import JSON, shown
from rayft.serve.wire.predict import parse_instances
from rayft.serve.wire.rows import DEFAULT_TOP, prediction_rows
from rayft.serve.wire.tensors import Pictures

_RAW = ("application/octet-stream", "binary/octet-stream")
_FORM = "multipart/form-data"
# What clients say that were not told what they send, curl -d among them.
_UNSAID = ("", "application/x-www-form-urlencoded", "text/plain")


def predict_routes(engine: Engine, limits: Limits) -> list[Route]:
    """Return the routes ``:predict`` and ``:explain``."""

    async def predict(request: Request) -> Reply:
        # Before the body: whoever asks for a model that is not there need not send pictures.
        model = engine.find(request.params["model"], request.params.get("version"))
        top = _top(request.query("top").get("top"))
        pictures = read_pictures(await request.body(), request, limits)
        answered = await answer_request(engine, limits, request, pictures)
        rows = prediction_rows(answered.model, answered.probabilities, min(top, len(model.labels)))
        return with_origin(json_reply({"predictions": rows}), answered)

    async def explain(request: Request) -> Reply:
        name, version = request.params["model"], request.params.get("version")
        model = engine.find(name, version)
        label = request.query("label").get("label")
        pictures = read_pictures(await request.body(), request, limits)
        if not isinstance(pictures, list) or len(pictures) != 1:
            raise RequestError(f"{len(pictures)} pictures came; 1 encoded picture is allowed.", "Send one at a time.")
        png = await engine.explain(name, version, pictures[0], label, deadline=request.deadline())
        request.facts |= {"model": model.name, "version": model.version, "pictures": 1}
        return Reply(200, png, "image/png")

    return [
        Route("POST", f"/v1/models/{{model}}{version}:{verb}", handler, operation(bool(version)))
        for verb, handler, operation in (
            ("predict", predict, operations.predict),
            ("explain", explain, operations.explain),
        )
        for version in ("", "/versions/{version}")
    ]


def read_pictures(body: bytes, request: Request, limits: Limits) -> Pictures:
    """Return the pictures of a body, by its content type.

    Raises:
        RequestError: 400 it is not what the type says; 413 too many; 415 another type than allowed.
    """
    kind = request.media_type
    if kind in _UNSAID:
        kind = JSON if body.lstrip()[:1] == b"{" else _RAW[0]
    if kind == JSON:
        return parse_instances(body)
    if kind == _FORM:
        return parse_form(body, request.headers["content-type"], limits.max_pictures)
    if kind in _RAW or kind.startswith("image/"):
        if not body:
            raise RequestError("The body is empty.", "Send a picture: curl --data-binary @picture.jpg.")
        return [body]
    raise RequestError(
        f"Content-Type is {shown(kind)}; {JSON}, {_FORM}, {_RAW[0]} and image/* are allowed.", "Send one of them.", 415
    )


def _top(value: str | None) -> int:
    if value is None:
        return DEFAULT_TOP
    if not value.isascii() or not value.isdigit() or len(value) > 9 or int(value) == 0:
        raise RequestError(f"top is {shown(value)}; a number from 1 on is allowed.", "Example: ?top=3.")
    return int(value)
