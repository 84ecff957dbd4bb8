"""From pictures to the probabilities of a package, as TensorFlow functions for export."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from rayft.data.picture import decode_picture
from rayft.data.views import answer_views
from rayft.model.adapter import plain_config
from rayft.model.fold import fold_batch_norm
from rayft.package.read import Package

IMAGE, ENCODED, PROBABILITIES = "image", "image_bytes", "probabilities"


class Graph(tf.Module):
    """A package's answers as functions that TensorFlow can save.

    Args:
        package: The opened package.

    Attributes:
        answer_images: Maps ``image`` float32 [n, H, W, C] in 0..255 to ``probabilities`` float32 [n, classes], with
            temperature and test-time augmentation as the Predictor has them.
        answer_encoded: Maps ``image_bytes`` string [n], encoded pictures, to the same.
    """

    def __init__(self, package: Package) -> None:
        super().__init__()
        last = package.model.layers[-1]
        # Kept, so that its variables are saved.
        self._network = fold_batch_norm(_in_float32(keras.Model(package.model.inputs[0], last.input)))
        # A number: a tensor from outside would become an input of what is converted.
        temperature = float(package.record.get("calibration", {}).get("temperature", 1.0))
        views, several = package.record["preprocessing"].get("tta"), package.multi_label
        shape = (*package.image_size, package.channels)

        def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = answer_views(lambda view: self._network(view, training=False), images, views, multi_label=several)
            return {PROBABILITIES: (tf.nn.sigmoid if several else tf.nn.softmax)(logits / temperature)}

        def decode(encoded: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(decode_picture(encoded, package.image_size, package.channels), shape)

        def answer_encoded(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
            return answer(tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec(shape, tf.float32)))

        self.answer_images = tf.function(answer, [tf.TensorSpec((None, *shape), tf.float32, name=IMAGE)])
        self.answer_encoded = tf.function(answer_encoded, [tf.TensorSpec((None,), tf.string, name=ENCODED)])


def _in_float32(model: keras.Model) -> keras.Model:
    """Return ``model``, or where some layer computes in another type, a copy that computes in float32 alone.

    Other runtimes lack bfloat16 and float64 kernels, or emulate them.
    """
    if all(layer.compute_dtype == layer.variable_dtype == "float32" for layer in model.layers):
        return model

    def clone_layer(layer: Any) -> Any:
        return layer.__class__.from_config({**plain_config(layer), "dtype": "float32"})

    entry = keras.Input(model.inputs[0].shape[1:], dtype="float32")
    clone = keras.models.clone_model(model, input_tensors=entry, clone_function=clone_layer)
    clone.set_weights([weight.astype("float32") for weight in model.get_weights()])
    return clone
