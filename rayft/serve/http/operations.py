"""What OpenAPI says of each route: bodies, statuses, examples."""

from __future__ import annotations

from typing import Any

from rayft.serve.http.schemas import PICTURE, reference

_NO_MODEL = (401, 403, 404, 503)
_BODY = (400, 401, 403, 404, 408, 413, 415, 422, 429, 503)

_EXAMPLE_PICTURE = {"b64": PICTURE}
_MODEL, _VERSION = ({"$ref": f"#/components/parameters/{name}"} for name in ("model", "version"))
_TIMEOUT = {
    "name": "X-Request-Timeout-Seconds",
    "in": "header",
    "description": "After that nobody waits for the answer; lowers the endpoint's own deadline.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_RAW = {"schema": {"type": "string", "format": "binary", "description": "JPEG, PNG, GIF, BMP or WebP."}}
_FORM = {
    "schema": {
        "type": "object",
        "properties": {"image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
        "required": ["image"],
    }
}


def predict(versioned: bool) -> dict[str, Any]:
    """Describe ``:predict``."""
    top = {
        "name": "top",
        "in": "query",
        "description": "How many classes `top` lists.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999, "default": 5},
    }
    return {
        "summary": "Classify pictures",
        "description": "TensorFlow Serving's REST form, or pictures as they are.",
        "parameters": _parameters(versioned, top, _TIMEOUT),
        "requestBody": _pictures("PredictRequest", {"instances": [_EXAMPLE_PICTURE]}),
        "responses": {**_ok("A row for each picture.", "PredictResponse"), **_errors(_BODY)},
    }


def explain(versioned: bool) -> dict[str, Any]:
    """Describe ``:explain``."""
    label = {
        "name": "label",
        "in": "query",
        "description": "The class to explain; the most probable one if left out.",
        "schema": {"type": "string"},
    }
    png = {"description": "The picture under a heat map.", "content": {"image/png": _RAW}}
    return {
        "summary": "Show what speaks for a class",
        "description": "Grad-CAM of one picture.",
        "parameters": _parameters(versioned, label, _TIMEOUT),
        "requestBody": _pictures("ExplainRequest", {"instances": [_EXAMPLE_PICTURE]}),
        "responses": {"200": png, **_errors(_BODY)},
    }


def infer(versioned: bool) -> dict[str, Any]:
    """Describe v2 ``infer``."""
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Bytes of JSON before the binary tensors; without it the body is JSON alone.",
        "schema": {"type": "integer", "minimum": 0},
    }
    example = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [PICTURE]}]}
    content = {
        "application/json": {"schema": reference("InferRequest"), "example": example},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
    answer = {
        "description": "The tensors asked for; in bytes behind the JSON where those were asked for.",
        "content": {
            "application/json": {"schema": reference("InferResponse")},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
    return {
        "summary": "Infer (Open Inference Protocol v2)",
        "parameters": _parameters(versioned, length, _TIMEOUT),
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answer, **_errors(_BODY)},
    }


def model_metadata(versioned: bool) -> dict[str, Any]:
    """Describe v2 model metadata."""
    return _get("Tensors of a model", "ModelMetadata", _NO_MODEL, _parameters(versioned))


def model_ready(versioned: bool) -> dict[str, Any]:
    """Describe v2 model readiness."""
    return _get("Whether a model may be asked", "ModelReady", _NO_MODEL, _parameters(versioned))


def server_metadata() -> dict[str, Any]:
    """Describe v2 server metadata."""
    return _get("Name and version of the server", "ServerMetadata", (401,))


def live() -> dict[str, Any]:
    """Describe liveness."""
    return {**_get("Whether the process lives", "Live", ()), "security": []}


def ready() -> dict[str, Any]:
    """Describe readiness."""
    return {**_get("Whether every model is loaded and warm", "Ready", (503,)), "security": []}


def list_models() -> dict[str, Any]:
    """Describe the listing."""
    return _get("Models in the scope of the key", "Models", (400, 401))


def show_model(versioned: bool) -> dict[str, Any]:
    """Describe the details of a model."""
    return _get("Status, labels and metrics of a model", "Model", (400, *_NO_MODEL), _parameters(versioned))


def metrics() -> dict[str, Any]:
    """Describe the metrics."""
    text = {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"summary": "Metrics, for keys of every model", "responses": {"200": text, **_errors((401, 403))}}


def _get(summary: str, schema: str, statuses: tuple[int, ...], parameters: list[Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": summary, "responses": {**_ok(f"{summary}.", schema), **_errors(statuses)}}
    return {**found, "parameters": parameters} if parameters else found


def _parameters(versioned: bool, *more: dict[str, Any]) -> list[dict[str, Any]]:
    return [_MODEL, *([_VERSION] if versioned else []), *more]


def _pictures(schema: str, example: Any) -> dict[str, Any]:
    raw = {media: _RAW for media in ("application/octet-stream", "image/jpeg", "image/png")}
    json_body = {"schema": reference(schema), "example": example}
    return {"required": True, "content": {"application/json": json_body, "multipart/form-data": _FORM, **raw}}


def _ok(description: str, schema: str) -> dict[str, Any]:
    return {"200": {"description": description, "content": {"application/json": {"schema": reference(schema)}}}}


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
