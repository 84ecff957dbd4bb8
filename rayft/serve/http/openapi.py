"""The OpenAPI document of the endpoint, from its routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rayft
from rayft.serve.contract import ServedModel
from rayft.serve.http.routes import Route
from rayft.serve.http.schemas import ERRORS, SCHEMAS, reference

_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}


def document(routes: Sequence[Route], models: Sequence[ServedModel]) -> dict[str, Any]:
    """Describe all routes that have an operation.

    Source: OpenAPI Specification 3.1.

    Args:
        routes: All of them.
        models: Those that whoever reads it may ask for.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.operation is not None:
            paths.setdefault(route.template, {})[route.method.lower()] = dict(route.operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rayft",
            "version": rayft.__version__,
            "description": "Classification of pictures. Every error is a JSON object with one text, `error`.",
        },
        "security": [{"bearer": []}, {"key": []}, {"basic": []}, {}],
        "paths": paths,
        "components": {
            "parameters": {
                "model": _parameter("model", "A served model.", sorted({model.name for model in models})),
                "version": _parameter(
                    "version",
                    "The version of it that is served, as numbered in the registry.",
                    sorted({model.version for model in models}),
                ),
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "basic": {"type": "http", "scheme": "basic", "description": "Any name; the key is the password."},
            },
            "responses": {str(status): _error(status, text) for status, text in ERRORS.items()},
            "schemas": SCHEMAS,
        },
    }


def _parameter(name: str, text: str, values: list[str]) -> dict[str, Any]:
    schema = {"type": "string", **({"enum": values} if values else {})}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _error(status: int, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": text,
        "content": {"application/json": {"schema": reference("Error")}},
    }
    return {**found, "headers": _RETRY_AFTER} if status in (429, 503) else found
