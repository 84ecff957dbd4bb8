"""What the endpoint tells about itself and its models.

Source: Open Inference Protocol v2, metadata; TensorFlow Serving, model status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rayft
from rayft.serve.contract import ServedModel
from rayft.serve.wire.infer import DECODED, ENCODED, LABEL, PROBABILITIES

SERVER = "rayft"
PLATFORM = "rayft_keras"
EXTENSIONS = ("binary_tensor_data", "classification")


def server_metadata() -> dict[str, Any]:
    """Return the v2 metadata of the server."""
    return {"name": SERVER, "version": rayft.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """Return the v2 metadata of a model; the input is that of encoded pictures, which every client can make."""
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [{"name": "image", "datatype": ENCODED, "shape": [-1]}],
        "outputs": [
            {"name": PROBABILITIES, "datatype": DECODED, "shape": [-1, len(model.labels)]},
            {"name": LABEL, "datatype": ENCODED, "shape": [-1]},
        ],
    }


def listing(models: Sequence[ServedModel]) -> dict[str, Any]:
    """Return what ``GET /v1/models`` answers."""
    return {
        "models": [
            {
                "name": model.name,
                "version": model.version,
                "aliases": list(model.aliases),
                "metrics": dict(model.metrics),
            }
            for model in models
        ]
    }


def details(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """Return what ``GET /v1/models/{model}`` answers: TensorFlow Serving's status, and what is known of the model."""
    return {
        "model_version_status": [
            {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            for version in versions
        ],
        # KServe's first protocol asks for it here.
        "ready": True,
        **listing([model])["models"][0],
        "labels": list(model.labels),
        "multi_label": model.multi_label,
        "image_shape": list(model.image_shape),
        "identity": model.identity,
    }
