"""A backbone whose three blocks have many weights for little work, as what the network carries is looked at."""

from __future__ import annotations

from pathlib import Path

import keras

HEAD_WIDTH, CLASSES = 256, 3
_FILTERS = (64, 128, 128)
# Kernels of 3 x 3 and biases of each block, in float32.
_BLOCK_BYTES = [
    4 * (9 * inputs * outputs + outputs) for inputs, outputs in zip((3, *_FILTERS[:-1]), _FILTERS, strict=True)
]
_HEAD_BYTES = 4 * ((_FILTERS[-1] + 1) * HEAD_WIDTH + (HEAD_WIDTH + 1) * CLASSES)
# Of the gradients, by freeze depth.
TRAINABLE_BYTES = {depth: sum(_BLOCK_BYTES[depth:]) + _HEAD_BYTES for depth in range(4)}


def write_backbone(path: Path) -> None:
    """Write it for pictures of 16 x 16, with random weights."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    for block, filters in enumerate(_FILTERS, 1):
        x = keras.layers.Conv2D(filters, 3, strides=2, name=f"block{block}_conv")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    keras.Model(inputs, x).save(path)
