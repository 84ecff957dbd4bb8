"""Freezing of a backbone's first blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from rayft.config import AdapterConfig
from rayft.errors import ModelError
from rayft.model.adapter import choose_trainable
from rayft.model.blocks import Block


def resolve_depth(depth: int | float | str, blocks: Sequence[Block]) -> int:
    """Turn ``freeze.depth`` into a number of blocks.

    Args:
        depth: A whole number, a fraction of the blocks (rounded to nearest, halves up), the name of the last
            frozen block, or ``all``.
        blocks: From ``list_blocks``.

    Raises:
        ModelError: The number is too large, or the name is unknown; the allowed ones are listed.
    """
    names = [block.name for block in blocks]
    allowed = f"Use 0 to {len(blocks)}, a fraction from 0.0 to 1.0, all, or a block: {', '.join(names) or 'none here'}."
    if isinstance(depth, str):
        if depth == "all":
            return len(blocks)
        if depth not in names:
            raise ModelError(f"freeze.depth is {depth!r}, which is no block of this backbone.", allowed)
        return names.index(depth) + 1
    if isinstance(depth, float):
        if not 0 <= depth <= 1:
            raise ModelError(f"freeze.depth is {depth}; a fraction lies between 0.0 and 1.0.", allowed)
        return math.floor(depth * len(blocks) + 0.5)
    if not 0 <= depth <= len(blocks):
        raise ModelError(f"freeze.depth is {depth}; the backbone has {len(blocks)} blocks.", allowed)
    return depth


def freeze(blocks: Sequence[Block], depth: int, batch_norm_frozen: bool, adapter: AdapterConfig | None = None) -> None:
    """Freeze the first ``depth`` blocks in place and leave the others trainable; undoes an earlier call.

    A frozen block is a pure function of its input: its BatchNormalization uses the moving statistics and
    its Dropout drops nothing.

    Args:
        blocks: From ``list_blocks``.
        depth: From 0 to ``len(blocks)``.
        batch_norm_frozen: Also keep every BatchNormalization of the other blocks in inference mode.
        adapter: What alone is trained in the other blocks, where they have adapters.

    Source: Yosinski et al. 2014, arXiv:1411.1792.
    """
    for index, block in enumerate(blocks):
        for layer in block.layers:
            layer.trainable = index >= depth
            for part in _parts(layer):
                if isinstance(part, keras.layers.Dropout):
                    # A later phase may unfreeze it.
                    part.unfrozen_rate = getattr(part, "unfrozen_rate", part.rate)
                    part.rate = 0.0 if index < depth else part.unfrozen_rate
                if index >= depth and batch_norm_frozen and isinstance(part, keras.layers.BatchNormalization):
                    # In Keras 3 this also means inference mode.
                    part.trainable = False
            if adapter is not None and index >= depth:
                choose_trainable(_parts(layer), adapter)


def _parts(layer: keras.layers.Layer) -> Iterator[Any]:
    """Yield the layer and all layers inside it."""
    yield from layer._flatten_layers()
