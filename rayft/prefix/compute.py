"""The frozen prefix, compiled for inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from rayft.model.fold import fold_batch_norm
from rayft.prefix.recipe import BATCH_ROWS

# Of the largest activation of a call: below, a CPU's caches hold most of what one layer hands to the next. Measured:
# EfficientNet-Lite0 takes 10.1 ms of CPU a picture of 224 px in calls of 4, 12.4 in calls of 32; at 96 px 2.3 and 1.8.
_MOST_BYTES = 24 << 20
_ITEM_BYTES = 4


def compile_prefix(
    model: keras.Model, tensors: Sequence[Any], dtypes: Sequence[str]
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Compile the part of ``model`` up to several of its tensors into one function.

    BatchNorm is folded and the weights become constants, so that TensorFlow's graph optimizer fuses
    convolution, bias and activation, and lays the weights out once. On a CPU it runs on a few pictures at a time,
    so that activations stay small.

    Args:
        model: The network.
        tensors: KerasTensors of it.
        dtypes: In which each is stored.

    Returns:
        Maps pictures float32 [BATCH_ROWS, H, W, C] in 0..255 to the activations [BATCH_ROWS, ...] of each
        tensor; bfloat16 as its bits, uint16.
    """
    folded = fold_batch_norm(keras.Model(model.inputs[0], list(tensors), name="prefix"))

    @tf.function(autograph=False)
    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        outputs = folded(images, training=False)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [_to_stored(output, dtype) for output, dtype in zip(outputs, dtypes, strict=True)]

    rows = _rows_a_call(folded)
    pictures = tf.TensorSpec([rows, *model.inputs[0].shape[1:]], tf.float32)
    constant = convert_variables_to_constants_v2(forward.get_concrete_function(pictures))

    def compute(images: tf.Tensor) -> list[tf.Tensor]:
        parts = [constant(images[first : first + rows]) for first in range(0, BATCH_ROWS, rows)]
        return list(parts[0]) if len(parts) == 1 else [tf.concat(each, axis=0) for each in zip(*parts, strict=True)]

    return compute


def _rows_a_call(model: keras.Model) -> int:
    """Return how many pictures to compute at once: a power of two that divides BATCH_ROWS."""
    if tf.config.list_logical_devices("GPU"):
        return BATCH_ROWS
    tensors = [tensor for layer in model.layers for tensor in keras.tree.flatten(layer.output)]
    largest = max(math.prod(side or 1 for side in tensor.shape[1:]) for tensor in tensors) * _ITEM_BYTES
    rows = BATCH_ROWS
    while rows > 1 and rows * largest > _MOST_BYTES:
        rows //= 2
    return rows


def from_stored(values: tf.Tensor, dtype: str) -> tf.Tensor:
    """Return stored numbers as the dtype that their recipe names."""
    return tf.bitcast(values, tf.bfloat16) if dtype == "bfloat16" else values


def _to_stored(values: tf.Tensor, dtype: str) -> tf.Tensor:
    cast = tf.cast(values, dtype)
    return tf.bitcast(cast, tf.uint16) if dtype == "bfloat16" else cast
