"""A network's blocks in numbers."""

from __future__ import annotations

import math
from typing import Any

import keras

from rayft.model.network import Network


def describe_blocks(network: Network) -> list[dict[str, Any]]:
    """Return name, layers, parameters and frozen of each block of the backbone, then of the head."""
    rows: list[dict[str, Any]] = []
    counted: set[int] = set()
    for index, block in enumerate(network.blocks):
        weights = [weight for layer in block.layers for weight in layer.weights]
        counted |= {id(weight) for weight in weights}
        rows.append(_row(block.name, len(block.layers), weights, index < network.frozen_depth))
    head = [weight for weight in network.model.weights if id(weight) not in counted]
    return [*rows, _row("head", _layers_of_head(network), head, False)]


def _layers_of_head(network: Network) -> int:
    in_blocks = {id(layer) for block in network.blocks for layer in block.layers}
    inputs = keras.layers.InputLayer
    return sum(id(layer) not in in_blocks and not isinstance(layer, inputs) for layer in network.model.layers)


def _row(name: str, layers: int, weights: list[Any], is_frozen: bool) -> dict[str, Any]:
    parameters = sum(math.prod(weight.shape) for weight in weights)
    return {"name": name, "layers": layers, "parameters": parameters, "frozen": is_frozen}
