"""BatchNorm of a frozen network folded into the convolutions in front of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from rayft.model.adapter import plain_config, plain_weights


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return an inference-only copy of ``model`` with fewer, fused operations.

    Each Conv2D or DepthwiseConv2D whose only consumer is a BatchNormalization takes over its scale and
    shift: kernel' = kernel * gamma / sqrt(var + eps), bias' = beta + (bias - mean) * gamma / sqrt(var + eps).
    TensorFlow then fuses convolution, bias and activation into one kernel. Outputs agree with the
    inference mode of ``model`` up to rounding.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """
    norms = _foldable(model)
    replaced = {norm.name for norm in norms.values()}

    def clone_layer(layer: Any) -> Any:
        config = plain_config(layer)
        if layer.name in norms:
            return layer.__class__.from_config({**config, "use_bias": True})
        if layer.name in replaced:
            return keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)
        return layer.__class__.from_config(config)

    def call_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(layer, "name", None) in replaced:
            kwargs.pop("mask", None)
        return layer(*args, **kwargs)

    folded = keras.models.clone_model(model, clone_function=clone_layer, call_function=call_layer)
    for old in model.layers:
        if not old.weights or old.name in replaced:
            continue
        new = folded.get_layer(old.name)
        new.set_weights(_folded_weights(old, norms[old.name]) if old.name in norms else plain_weights(old))
    folded.trainable = False
    return folded


def _foldable(model: keras.Model) -> dict[str, Any]:
    """Map names of convolutions to the BatchNormalization that alone consumes them."""
    consumers: dict[int, list[Any]] = {}
    for layer in model.layers:
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                consumers.setdefault(id(tensor), []).append(layer)
    outputs = {id(tensor) for tensor in model.outputs}
    norms = {}
    for layer in model.layers:
        if type(layer) not in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D) or len(layer._inbound_nodes) != 1:
            continue
        after = consumers.get(id(layer.output), [])
        if (
            len(after) == 1
            and id(layer.output) not in outputs
            and layer.activation is keras.activations.linear
            and layer.data_format == "channels_last"
            and isinstance(after[0], keras.layers.BatchNormalization)
            and len(after[0]._inbound_nodes) == 1
            and after[0].axis in (-1, 3)
        ):
            norms[layer.name] = after[0]
    return norms


def _folded_weights(conv: Any, norm: Any) -> list[np.ndarray]:
    kernel = conv.kernel.numpy()
    bias = conv.bias.numpy() if conv.use_bias else 0.0
    scale = 1.0 / np.sqrt(norm.moving_variance.numpy().astype("float64") + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma.numpy()
    shift = norm.beta.numpy() if norm.center else 0.0
    # A depthwise kernel is [h, w, channels, multiplier]; its outputs run over the last two axes.
    per_output = scale.reshape(kernel.shape[2:]) if isinstance(conv, keras.layers.DepthwiseConv2D) else scale
    return [
        (kernel * per_output).astype(kernel.dtype),
        (shift + (bias - norm.moving_mean.numpy()) * scale).astype(kernel.dtype),
    ]
