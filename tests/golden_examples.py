"""Golden examples for packages that tests write themselves."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from rayft.data.picture import decode_picture
from rayft.data.views import answer_views
from rayft.evaluation.calibration import as_probabilities
from rayft.package.golden import Golden


def golden_examples(
    model,
    pictures: list[bytes],
    image_size: tuple[int, int],
    temperature: float = 1.0,
    *,
    multi_label: bool = False,
    views: dict | None = None,
) -> Golden:
    """Answer pictures with a network that maps images of three channels to logits."""
    images = tf.stack([decode_picture(tf.constant(picture), image_size, 3) for picture in pictures])
    answered = answer_views(lambda view: model(view, training=False), images, views, multi_label=multi_label)
    logits = np.asarray(answered)
    return Golden(tuple(pictures), as_probabilities(logits, temperature, multi_label=multi_label))


def picture(side: int = 8, colour: tuple[int, int, int] = (90, 80, 70)) -> bytes:
    """Return a PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()
