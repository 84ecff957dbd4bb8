"""The frozen prefix, compiled for inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from rayft.model.fold import fold_batch_norm
from rayft.prefix.recipe import BATCH_ROWS


def compile_prefix(
    model: keras.Model, tensors: Sequence[Any], dtypes: Sequence[str]
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Compile the part of ``model`` up to several of its tensors into one function.

    BatchNorm is folded and the weights become constants, so that TensorFlow's graph optimizer fuses
    convolution, bias and activation, and lays the weights out once.

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

    pictures = tf.TensorSpec([BATCH_ROWS, *model.inputs[0].shape[1:]], tf.float32)
    constant = convert_variables_to_constants_v2(forward.get_concrete_function(pictures))

    def compute(images: tf.Tensor) -> list[tf.Tensor]:
        return list(constant(images))

    return compute


def from_stored(values: tf.Tensor, dtype: str) -> tf.Tensor:
    """Return stored numbers as the dtype that their recipe names."""
    return tf.bitcast(values, tf.bfloat16) if dtype == "bfloat16" else values


def _to_stored(values: tf.Tensor, dtype: str) -> tf.Tensor:
    cast = tf.cast(values, dtype)
    return tf.bitcast(cast, tf.uint16) if dtype == "bfloat16" else cast
