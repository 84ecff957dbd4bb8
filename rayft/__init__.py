"""Fine-tune pretrained Keras networks on Ray, from one YAML file."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayft.config import RunConfig, load_config
    from rayft.distributed.run import train
    from rayft.distributed.verify import verify
    from rayft.errors import RayftError
    from rayft.serve.predictor import load

    __version__: str

__all__ = ["RayftError", "RunConfig", "__version__", "load", "load_config", "train", "verify"]

# Keras chooses its backend on its first import; everything here is written for TensorFlow.
os.environ["KERAS_BACKEND"] = "tensorflow"

_HOMES = {
    "RayftError": "rayft.errors",
    "RunConfig": "rayft.config",
    "load_config": "rayft.config",
    "load": "rayft.serve.predictor",
    "train": "rayft.distributed.run",
    "verify": "rayft.distributed.verify",
}


def __getattr__(name: str) -> Any:
    # Lazily, because Ray and TensorFlow take seconds to import.
    if name == "__version__":
        from importlib.metadata import version

        return version("rayft")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rayft' has no attribute {name!r}")
