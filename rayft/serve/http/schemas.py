"""Schemas of bodies in OpenAPI."""

from __future__ import annotations

from typing import Any

# A PNG of one grey pixel.
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNoaGgAAAMEAYFL09IQAAAAAElFTkSuQmCC"

ERRORS = {
    400: "The request is not as described; the message says where.",
    401: "No API key, or an unknown one.",
    403: "The key is not for this model.",
    404: "No such model, version, class or path.",
    405: "Another method is allowed.",
    408: "The deadline has passed, or the body came too slowly.",
    413: "Too large a body or picture, or too many pictures.",
    415: "Another content type or encoding than allowed.",
    422: "A picture cannot be decoded.",
    429: "Too many requests wait; try again after Retry-After seconds.",
    503: "Not ready; try again after Retry-After seconds.",
}


def reference(name: str) -> dict[str, str]:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None, *, open: bool = False) -> dict[str, Any]:
    found = {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}
    return found if open else {**found, "additionalProperties": False}


def _list(items: Any, at_least: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **({"minItems": at_least} if at_least else {}), **more}


_TEXT, _NUMBER, _TRUTH = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
_COUNT = {"type": "integer", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_BASE64 = {"type": "string", "contentEncoding": "base64", "minLength": 4}
_METRICS = {"type": "object", "additionalProperties": _NUMBER}
_LISTED = {"name": _TEXT, "version": _TEXT, "aliases": _list(_TEXT), "metrics": _METRICS}
_ENCODED = _object({"b64": _BASE64})
_PIXELS = {**_list(_list(_list(_NUMBER, 1), 1), 1), "description": "Rows of columns of channels, 0 to 255."}
_SIGNATURE = {"enum": ["serving_default", "predict"]}
_BEST = _object({"label": _TEXT, "probability": _SHARE})
_TENSOR = {"name": _TEXT, "datatype": {"enum": ["BYTES", "FP32"]}, "shape": _list(_COUNT)}
_BINARY_SIZE = _object({"binary_data_size": _COUNT})

SCHEMAS: dict[str, Any] = {
    "Error": _object({"error": _TEXT}),
    "PredictRequest": _object(
        {"instances": _list({"anyOf": [_ENCODED, _object({"image": _ENCODED}), _PIXELS]}, 1)},
        {"signature_name": _SIGNATURE},
    ),
    "ExplainRequest": _object({"instances": _list(_ENCODED, 1, maxItems=1)}, {"signature_name": _SIGNATURE}),
    "PredictResponse": _object(
        {
            "predictions": _list(
                _object(
                    {"label": _TEXT, "probability": _SHARE, "probabilities": _list(_SHARE), "top": _list(_BEST)},
                    {"labels": _list(_TEXT)},
                ),
                1,
            )
        }
    ),
    "InferRequest": _object(
        {
            "inputs": _list(
                _object(
                    {
                        "name": {"enum": ["image", "images"]},
                        "datatype": _TENSOR["datatype"],
                        "shape": _list(_COUNT, 1, maxItems=4),
                    },
                    {"data": {"type": "array"}, "parameters": {"type": "object"}},
                ),
                1,
                maxItems=1,
            )
        },
        {
            "id": {"type": "string", "maxLength": 256},
            "parameters": _object(
                {},
                {"binary_data_output": _TRUTH, "timeout": {"type": "integer", "minimum": 0, "maximum": 2**53}},
                open=True,
            ),
            "outputs": _list(
                _object(
                    {"name": {"enum": ["probabilities", "label"]}},
                    {"parameters": _object({}, {"binary_data": _TRUTH, "classification": _COUNT}, open=True)},
                ),
                maxItems=2,
            ),
        },
        open=True,
    ),
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": _list(_object(_TENSOR, {"data": {"type": "array"}, "parameters": _BINARY_SIZE})),
        },
        {"id": _TEXT},
    ),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            **{
                side: _list(_object({**_TENSOR, "shape": _list({"type": "integer"})})) for side in ("inputs", "outputs")
            },
        }
    ),
    "ModelReady": _object({"name": _TEXT, "ready": _TRUTH}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "Live": _object({"live": {"const": True}}),
    "Ready": _object({"ready": {"const": True}}),
    "Models": _object({"models": _list(_object(_LISTED))}),
    "Model": _object(
        {
            "model_version_status": _list({"type": "object"}),
            "ready": {"const": True},
            **_LISTED,
            "labels": _list(_TEXT),
            "multi_label": _TRUTH,
            "image_shape": _list(_COUNT),
            "identity": _TEXT,
        }
    ),
}
