"""All routes of the endpoint, put together."""

from __future__ import annotations

from collections.abc import Sequence

from rayft.serve.contract import Engine
from rayft.serve.http.about import Metrics, about_routes, docs_routes, page_routes
from rayft.serve.http.app import Application
from rayft.serve.http.infer import health_routes, infer_routes
from rayft.serve.http.predict import predict_routes
from rayft.serve.http.routes import Route
from rayft.serve.keys import Keyring
from rayft.serve.limits import Limits


def build_application(
    engine: Engine,
    *,
    metrics: Metrics,
    keyring: Keyring | None = None,
    limits: Limits | None = None,
    extra_routes: Sequence[Route] = (),
) -> Application:
    """Return the ASGI application of an endpoint.

    Args:
        engine: Answers.
        metrics: Returns content type and body of ``/metrics``.
        keyring: None lets everybody in.
        limits: Bounds of requests.
        extra_routes: Others; behind keys like the rest.
    """
    limits = limits or Limits()
    routes = [
        *predict_routes(engine, limits),
        *infer_routes(engine, limits),
        *health_routes(engine),
        *about_routes(engine, metrics),
        *extra_routes,
    ]
    return Application([*routes, *docs_routes(engine, routes), *page_routes()], keyring, limits)
