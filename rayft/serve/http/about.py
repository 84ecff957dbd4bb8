"""Routes that tell of the endpoint: models, metrics, documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rayft.serve.contract import Engine, ServedModel
from rayft.serve.http import operations
from rayft.serve.http.docs_page import docs_page
from rayft.serve.http.infer import versions_of
from rayft.serve.http.openapi import document
from rayft.serve.http.request import Reply, Request, json_reply
from rayft.serve.http.routes import Route
from rayft.serve.page.page import build_page
from rayft.serve.wire.about import details, listing

Metrics = Callable[[], tuple[str, bytes]]

_HTML = "text/html; charset=utf-8"
# Nothing from elsewhere, no script.
_CONTENT_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"


def about_routes(engine: Engine, metrics: Metrics) -> list[Route]:
    """Return the routes of models and metrics.

    Args:
        engine: Knows the models.
        metrics: Returns content type and body of ``/metrics``.
    """

    async def list_models(request: Request) -> Reply:
        request.query()
        return json_reply(listing(_in_scope(engine, request)))

    async def show_model(request: Request) -> Reply:
        request.query()
        model = engine.find(request.params["model"], request.params.get("version"))
        return json_reply(details(model, versions_of(engine, model.name)))

    async def show_metrics(request: Request) -> Reply:
        content_type, body = metrics()
        return Reply(200, body, content_type)

    return [
        Route("GET", "/v1/models", list_models, operations.list_models()),
        *(
            Route("GET", f"/v1/models/{{model}}{version}", show_model, operations.show_model(bool(version)))
            for version in ("", "/versions/{version}")
        ),
        Route("GET", "/metrics", show_metrics, operations.metrics(), every_model=True),
    ]


def docs_routes(engine: Engine, routes: Sequence[Route]) -> list[Route]:
    """Return the routes that describe all others."""

    async def openapi(request: Request) -> Reply:
        return json_reply(document(routes, _in_scope(engine, request)))

    async def docs(request: Request) -> Reply:
        page = docs_page(document(routes, _in_scope(engine, request)))
        return Reply(200, page.encode(), _HTML, [(b"content-security-policy", _CONTENT_POLICY)])

    return [Route("GET", "/openapi.json", openapi), Route("GET", "/docs", docs)]


def page_routes() -> list[Route]:
    """Return the route of the page to try it; behind keys like the rest, which a browser asks for."""
    page, policy = build_page()

    async def show_page(request: Request) -> Reply:
        headers = [(b"content-security-policy", policy), (b"referrer-policy", b"no-referrer")]
        return Reply(200, page, _HTML, headers)

    return [Route("GET", "/", show_page)]


def _in_scope(engine: Engine, request: Request) -> list[ServedModel]:
    key = request.key
    return [model for model in engine.models() if key is None or key.covers(model.name)]
