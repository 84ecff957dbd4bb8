"""Adapters: few weights that are trained in place of a backbone's own."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from rayft.config import AdapterConfig
from rayft.errors import ModelError
from rayft.model.blocks import Block

LORA_LAYERS = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv2D)
NORM_LAYERS = (keras.layers.GroupNormalization, keras.layers.LayerNormalization)


def add_adapters(blocks: Sequence[Block], config: AdapterConfig, seed: int) -> None:
    """Give the chosen layers their adapters; the outputs of the network stay as they are.

    lora adds to a kernel W [..., out] the product (alpha / rank) A B with A [..., rank] drawn and
    B [rank, out] zero. For a convolution A is one of the same window with ``rank`` filters, and B one of
    1x1. bias adds nothing. Trainability is set by ``choose_trainable``.

    Source: Hu et al. 2021, arXiv:2106.09685; Ben Zaken et al. 2021, arXiv:2106.10199.

    Args:
        blocks: The backbone's blocks, built.
        config: kind, rank, alpha, layers.
        seed: The initial A is a function of it and of the layer's name alone.

    Raises:
        ModelError: No layer suits; names the kinds of layers that the backbone has.
    """
    if config.kind == "lora":
        for layer in _chosen(blocks, config, lambda layer: type(layer) in LORA_LAYERS):
            _enable_lora(layer, config.rank or 8, config.alpha or 16.0, seed)
    elif not (config.norm and any(_is_norm(layer) for layer in _layers(blocks))):
        list(_chosen(blocks, config, lambda layer: _bias(layer) is not None))


def choose_trainable(layers: Iterable[Any], config: AdapterConfig) -> None:
    """Leave trainable what the adapters of these layers train, and nothing else; BatchNorm keeps its statistics."""
    for layer in layers:
        chosen = [variable for variable in _trained(layer, config) if variable is not None]
        layer.trainable = bool(chosen) or bool(layer._layers)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.fixed_statistics = True
        for variable in layer._trainable_variables:
            variable.trainable = any(variable is one for one in chosen)


def is_adapted(layer: Any) -> bool:
    """Whether a layer carries a low-rank addition."""
    return bool(getattr(layer, "lora_enabled", False))


def plain_config(layer: Any) -> dict[str, Any]:
    """Return the config of a layer without its addition."""
    config = layer.get_config()
    if is_adapted(layer):
        config = {name: value for name, value in config.items() if name not in ("lora_rank", "lora_alpha")}
    return config


def plain_weights(layer: Any) -> list[np.ndarray]:
    """Return the weights of a layer or model, additions merged into the kernels they belong to.

    W + (alpha / rank) A B is computed in float64 and rounded once.
    """
    adapted = [part for part in layer._flatten_layers() if is_adapted(part)]
    merged = {id(part._kernel): _merged_kernel(part) for part in adapted}
    additions = {id(variable) for part in adapted for variable in (part.lora_kernel_a, part.lora_kernel_b)}
    return [
        merged[id(variable)] if id(variable) in merged else variable.numpy()
        for variable in layer.weights
        if id(variable) not in additions
    ]


def _trained(layer: Any, config: AdapterConfig) -> list[Any]:
    named = re.search(config.layers, layer.name) is not None
    norms = [getattr(layer, name, None) for name in ("gamma", "beta")] if config.norm and _is_norm(layer) else []
    if config.kind == "lora":
        return [*norms, *([layer.lora_kernel_a, layer.lora_kernel_b] if is_adapted(layer) else [])]
    return [*norms, *([_bias(layer)] if named else [])]


def _enable_lora(layer: Any, rank: int, alpha: float, seed: int) -> None:
    # Keras' own enable_lora has float32 additions under any policy, and draws from the state of the process.
    shape = tuple(layer.kernel.shape)
    layer._tracker.unlock()
    layer.lora_kernel_a = layer.add_weight(
        name="lora_kernel_a",
        shape=(*shape[:-1], rank),
        initializer=keras.initializers.HeUniform(seed=seed ^ zlib.crc32(layer.name.encode())),
    )
    layer.lora_kernel_b = layer.add_weight(name="lora_kernel_b", shape=(rank, shape[-1]), initializer="zeros")
    layer._tracker.lock()
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = True, rank, alpha


def _merged_kernel(layer: Any) -> np.ndarray:
    kernel, a, b = (
        np.asarray(variable).astype("float64") for variable in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    return (kernel + layer.lora_alpha / layer.lora_rank * (a @ b)).astype(layer._kernel.dtype)


def _bias(layer: Any) -> Any | None:
    """The bias of a layer, where it has one."""
    bias = getattr(layer, "bias", None)
    return bias if isinstance(bias, keras.Variable) else None


def _is_norm(layer: Any) -> bool:
    """Whether scale and shift of a layer can train while its statistics stay."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return hasattr(layer, "fixed_statistics")
    return isinstance(layer, NORM_LAYERS)


def _chosen(blocks: Sequence[Block], config: AdapterConfig, suits: Any) -> Iterator[Any]:
    layers = [layer for layer in _layers(blocks) if layer.weights]
    fitting = [layer for layer in layers if suits(layer)]
    named = [layer for layer in fitting if re.search(config.layers, layer.name)]
    if not named:
        kinds = Counter(type(layer).__name__ for layer in layers)
        there = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "no layer with weights"
        names = ", ".join(layer.name for layer in fitting[:8])
        raise ModelError(
            f"model.adapter.kind is {config.kind}, layers is {config.layers!r}: no unfrozen layer of the backbone "
            f"suits; it has {there}" + (f"; suited are {names}." if names else "."),
            "Choose names among those suited."
            if fitting
            else "Set norm: true to train scale and shift of its normalisation, or freeze.depth with no adapter."
            if config.kind == "bias"
            else "Use kind: bias, or freeze.depth with no adapter.",
        )
    yield from named


def _layers(blocks: Sequence[Block]) -> Iterator[Any]:
    for block in blocks:
        for layer in block.layers:
            yield from layer._flatten_layers()
