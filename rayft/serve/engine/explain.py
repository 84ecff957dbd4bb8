"""Grad-CAM: where in a picture a network sees what speaks for a class.

Source: Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from rayft.model.blocks import cut_tensors
from rayft.serve.contract import RequestError
from rayft.serve.predictor import Predictor

# Longest side of the overlay; a larger picture is drawn smaller.
MAX_SIDE = 1024
_OPACITY = 0.5
# Anchors of the colours from nothing to most: dark blue, cyan, yellow, red.
_COLOURS = np.array([[0, 0, 96], [0, 160, 255], [255, 230, 0], [220, 0, 0]], np.float32)

# Maps images [1, H, W, C] and a one-hot row [1, classes] to the heat map [h, w].
HeatMap = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def build_heat_map(predictor: Predictor) -> HeatMap:
    """Compile the heat map of a network, at the resolution of its last spatial features.

    Raises:
        RequestError: 422: the network has no such features.
    """
    # Views of test-time augmentation are left out: the picture itself is explained.
    parts = [part for part in predictor.parts if part is not None]
    index, tensor = _last_features(parts)
    before, after = parts[:index], parts[index + 1 :]
    here = parts[index]
    features: Any = keras.Model(here.inputs[0], tensor)
    # The features themselves may be the last output of their part.
    rest = None if tensor is here.outputs[0] else keras.Model(tensor, here.outputs[0])

    def heat_map(images: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        x = images
        for part in before:
            x = part(x, training=False)
        maps = features(x, training=False)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            y = maps if rest is None else rest(maps, training=False)
            for part in after:
                y = part(y, training=False)
            score = tf.reduce_sum(tf.cast(y, tf.float32) * chosen)
        slopes = tf.cast(tape.gradient(score, maps), tf.float32)
        weights = tf.reduce_mean(slopes, axis=(1, 2), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=-1))[0]

    shape, classes = predictor.image_shape, len(predictor.labels)
    return tf.function(
        heat_map, input_signature=[tf.TensorSpec((1, *shape), tf.float32), tf.TensorSpec((1, classes), tf.float32)]
    )


def _last_features(parts: list[keras.Model]) -> tuple[int, Any]:
    """Return the index of a part and, in it, the last tensor with height and width that all data passes through."""
    for index in reversed(range(len(parts))):
        for tensor in reversed(cut_tensors(parts[index])):
            if len(tensor.shape) == 4 and min(tensor.shape[1] or 0, tensor.shape[2] or 0) > 1:
                return index, tensor
    raise RequestError(
        "The network has no feature map with height and width behind its pictures, so there is no heat map.",
        "Ask for probabilities alone.",
        422,
    )


def overlay(picture: bytes, heat: np.ndarray) -> bytes:
    """Lay a heat map over the picture it belongs to; returns a PNG of the picture's size, at most MAX_SIDE.

    Args:
        picture: Encoded; has been decoded before, so it is one.
        heat: float32 [h, w], at least 0; scaled to its own maximum.
    """
    with Image.open(io.BytesIO(picture)) as opened:
        # Large JPEGs are decoded smaller at once; has no effect on others.
        opened.draft("RGB", (MAX_SIDE, MAX_SIDE))
        upright = ImageOps.exif_transpose(opened)
        upright.thumbnail((MAX_SIDE, MAX_SIDE))
        rgba = upright.convert("RGBA")
    flat = Image.new("RGBA", rgba.size, "white")
    flat.alpha_composite(rgba)
    base = flat.convert("RGB")
    peak = float(heat.max())
    scaled = Image.fromarray(heat / peak if peak > 0 else heat).resize(base.size, Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(scaled, np.float32), 0, 1)
    stops = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(level, stops, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    mixed = (1 - _OPACITY) * np.asarray(base, np.float32) + _OPACITY * colours
    buffer = io.BytesIO()
    Image.fromarray(mixed.round().astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def explain(predictor: Predictor, heat_map: HeatMap, image: np.ndarray, picture: bytes, label: str | None) -> bytes:
    """Return the overlay of what speaks for a class.

    Args:
        predictor: Of the network.
        heat_map: From ``build_heat_map``.
        image: The decoded picture, float32 [H, W, C].
        picture: The encoded one.
        label: The class; None for the most probable one.

    Raises:
        RequestError: 404: there is no such class.
    """
    if label is None:
        index = int(predictor.logits(image[None]).argmax())
    elif label in predictor.labels:
        index = predictor.labels.index(label)
    else:
        shown = ", ".join(predictor.labels[:20]) + (" and more" if len(predictor.labels) > 20 else "")
        raise RequestError(f"The model has no class {label[:60]!r}; it has {shown}.", "Choose one of them.", 404)
    chosen = tf.one_hot([index], len(predictor.labels))
    return overlay(picture, heat_map(tf.constant(image[None]), chosen).numpy())
