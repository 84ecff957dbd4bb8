"""Fine-tune pretrained Keras networks on Ray, from one YAML file."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayft.api import evaluate, load, train, verify
    from rayft.config import RunConfig, load_config
    from rayft.errors import RayftError

    __version__: str

__all__ = ["RayftError", "RunConfig", "__version__", "evaluate", "load", "load_config", "train", "verify"]

# Keras chooses its backend on its first import; everything here is written for TensorFlow.
os.environ["KERAS_BACKEND"] = "tensorflow"

_HOMES = {
    "RayftError": "rayft.errors",
    "RunConfig": "rayft.config",
    "load_config": "rayft.config",
    "evaluate": "rayft.api",
    "load": "rayft.api",
    "train": "rayft.api",
    "verify": "rayft.api",
}


def __getattr__(name: str) -> Any:
    # Lazily, because Ray and TensorFlow take seconds to import.
    if name == "__version__":
        from importlib.metadata import version

        return version("rayft")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rayft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
