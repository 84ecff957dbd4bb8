"""Which library runs the compiled prefix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import keras
import tensorflow as tf

from rayft.errors import ConfigError

TENSORFLOW = "tensorflow"
OPENVINO = "openvino"
# What tests have seen OpenVINO compute: the layers of keras.applications and of the packaged networks. `auto` leaves
# every other kind to TensorFlow.
_KNOWN = frozenset(
    {
        "Activation",
        "Add",
        "AveragePooling2D",
        "BatchNormalization",
        "Concatenate",
        "Conv2D",
        "ConvertToTensor",
        "Cropping2D",
        "CustomScaleLayer",
        "Dense",
        "DepthwiseConv2D",
        "Dropout",
        "Flatten",
        "Flip",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling2D",
        "InputLayer",
        "LayerNormalization",
        "LayerScale",
        "MaxPooling2D",
        "Multiply",
        "Normalization",
        "ReLU",
        "Rescaling",
        "Reshape",
        "SeparableConv2D",
        "StochasticDepth",
        "ZeroPadding2D",
    }
)


def choose_engine(prefix: keras.Model, wanted: str) -> str:
    """Return the library and its version that computes ``prefix``: a function of network, config and device alone.

    Two libraries differ by rounding, so this is a part of a cache's key.

    Args:
        prefix: The frozen layers.
        wanted: ``prefix_cache.engine``.

    Raises:
        ConfigError: It is openvino, which cannot compute this prefix.
    """
    obstacle = _obstacle(prefix)
    if wanted == OPENVINO and obstacle:
        raise ConfigError(
            f"prefix_cache.engine is {OPENVINO}, but {obstacle}.", f"Set it to {TENSORFLOW}, or leave it out."
        )
    is_known = wanted == OPENVINO or all(map(_is_known, _operations(prefix)))
    if wanted == TENSORFLOW or obstacle or not is_known:
        return f"{TENSORFLOW} {tf.__version__}"
    return f"{OPENVINO} {metadata.version(OPENVINO)}"


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would send an event to its maker on import."""
    # An import of what stands here as None fails, and OpenVINO then takes a stand-in that sends nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _obstacle(prefix: keras.Model) -> str:
    if tf.config.list_logical_devices("GPU"):
        return "the prefix is computed on a GPU"
    others = {dtype for operation in _operations(prefix) for dtype in _dtypes(operation)} - {"float32"}
    return f"the prefix computes in {min(others)}, and that computes in float32" if others else ""


def _operations(model: Any) -> Iterator[Any]:
    """Yield the operations of a model, and of the models inside it."""
    # A Sequential has layers alone.
    for operation in getattr(model, "operations", model.layers):
        yield from _operations(operation) if isinstance(operation, keras.Model) else (operation,)


def _dtypes(operation: Any) -> set[str]:
    computed = {operation.compute_dtype} if isinstance(operation, keras.layers.Layer) else set()
    return computed | {str(tensor.dtype) for tensor in keras.tree.flatten(operation.output)}


def _is_known(operation: Any) -> bool:
    # Another's layer or activation of the same name may compute anything.
    ours = [type(operation), getattr(operation, "activation", None)]
    return type(operation).__name__ in _KNOWN and all(
        part is None or part.__module__.startswith(("keras.", "rayft.")) for part in ours
    )
