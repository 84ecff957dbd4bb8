"""The task layers on top of a backbone."""

from __future__ import annotations

from typing import Any

import keras

from rayft.config import ModelConfig
from rayft.errors import ModelError
from rayft.model.layers import Dropout


def add_head(features: Any, config: ModelConfig, num_classes: int, seed: int) -> Any:
    """Continue a graph from features to logits.

    Args:
        features: KerasTensor [b, h, w, c], [b, t, c] or [b, c].
        config: pooling, hidden, activation, dropout.
        num_classes: Width of the logits.
        seed: The initial weights are a function of it and of the shapes alone.

    Returns:
        KerasTensor [b, num_classes]; float32 under mixed precision, else of the policy's dtype.

    Raises:
        ModelError: The activation is unknown, or the features have another rank.
    """
    activation = _activation(config.activation)
    x = _pool(features, config.pooling)
    for index, width in enumerate(config.hidden, start=1):
        x = keras.layers.Dense(
            width,
            activation=activation,
            # Keras' own default seed would come from the state of the process.
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed + index),
            name=f"head_dense_{index}",
        )(x)
    if config.dropout:
        x = Dropout(config.dropout, name="head_dropout")(x)
    return keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        # Softmax over bfloat16 or float16 logits would lose most of its digits.
        dtype=str(keras.config.dtype_policy().variable_dtype),
        name="logits",
    )(x)


def _pool(features: Any, pooling: str) -> Any:
    rank = len(features.shape)
    if rank == 2:
        return features
    if rank not in (3, 4):
        raise ModelError(
            f"The backbone ends in a tensor of shape {features.shape}.",
            "Use one that ends in [batch, features] or [batch, height, width, features].",
        )
    if pooling == "flatten":
        return keras.layers.Flatten(name="head_flatten")(features)
    pools = {
        ("avg", 4): keras.layers.GlobalAveragePooling2D,
        ("max", 4): keras.layers.GlobalMaxPooling2D,
        ("avg", 3): keras.layers.GlobalAveragePooling1D,
        ("max", 3): keras.layers.GlobalMaxPooling1D,
    }
    return pools[pooling, rank](name="head_pool")(features)


def _activation(name: str) -> Any:
    try:
        return keras.activations.get(name)
    except ValueError:
        raise ModelError(
            f"model.activation is {name!r}, which is no Keras activation.", "Use relu, gelu, silu, tanh or another."
        ) from None
