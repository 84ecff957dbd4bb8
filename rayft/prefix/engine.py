"""Which library runs the compiled prefix."""

from __future__ import annotations

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
    if wanted == TENSORFLOW or obstacle or (wanted != OPENVINO and _unknown_layer(prefix)):
        return f"{TENSORFLOW} {tf.__version__}"
    return f"{OPENVINO} {metadata.version(OPENVINO)}"


def _obstacle(prefix: keras.Model) -> str:
    if tf.config.list_logical_devices("GPU"):
        return "the prefix is computed on a GPU"
    others = {dtype for layer in prefix.layers for dtype in _dtypes(layer)} - {"float32"}
    return f"the prefix computes in {min(others)}, and that computes in float32" if others else ""


def _dtypes(layer: Any) -> set[str]:
    return {layer.compute_dtype, *(str(tensor.dtype) for tensor in keras.tree.flatten(layer.output))}


def _unknown_layer(prefix: Any) -> bool:
    return any(
        _unknown_layer(operation) if isinstance(operation, keras.Model) else type(operation).__name__ not in _KNOWN
        for operation in prefix.operations
    )
