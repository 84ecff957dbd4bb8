"""Routes that tell of the endpoint: models, metrics, documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rayft.serve.contract import Engine
from rayft.serve.http import operations
from rayft.serve.http.docs_page import docs_page
from rayft.serve.http.infer import versions_of
from rayft.serve.http.openapi import document
from rayft.serve.http.request import Reply, Request, json_reply
from rayft.serve.http.routes import Route
from rayft.serve.wire.about import details, listing

Metrics = Callable[[], tuple[str, bytes]]


def about_routes(engine: Engine, metrics: Metrics) -> list[Route]:
    """Return the routes of models and metrics.

    Args:
        engine: Knows the models.
        metrics: Returns content type and body of ``/metrics``.
    """

    async def list_models(request: Request) -> Reply:
        request.query()
        key = request.key
        return json_reply(listing([model for model in engine.models() if key is None or key.covers(model.name)]))

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


def docs_routes(routes: Sequence[Route]) -> list[Route]:
    """Return the routes that describe all others."""
    described = document(routes)
    page = docs_page(described).encode()

    async def openapi(request: Request) -> Reply:
        return json_reply(described)

    async def docs(request: Request) -> Reply:
        return Reply(200, page, "text/html; charset=utf-8", [(b"content-security-policy", CONTENT_POLICY)])

    return [Route("GET", "/openapi.json", openapi), Route("GET", "/docs", docs)]


# Nothing from elsewhere, no script.
CONTENT_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
