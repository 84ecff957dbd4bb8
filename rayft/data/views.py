"""Test-time augmentation: the views of a picture, and the average of their answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from rayft.config import AugmentConfig, RunConfig, TtaConfig
from rayft.data.augment import box_chooser, change
from rayft.data.draws import draw_example, split_draws

# Top and left of the corners and of the middle, as a part of what is cut away.
_PLACES = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))


def tta_record(config: RunConfig) -> dict[str, Any] | None:
    """Return what a package keeps of test-time augmentation, plain values; None where it is off."""
    tta = config.evaluate.tta
    if not tta.is_on:
        return None
    drawn = config.data.augment.for_views() if tta.views else AugmentConfig()
    return {**tta.model_dump(mode="json"), "augment": drawn.model_dump(mode="json")}


def average_views(
    answer: Callable[[tf.Tensor], tf.Tensor], images: tf.Tensor, record: dict[str, Any] | None
) -> tf.Tensor:
    """Answer every view of some pictures and average the probabilities.

    Args:
        answer: Maps images [b, H, W, C] to probabilities [..., b, classes].
        images: float32 [b, H, W, C] in 0..255.
        record: Of ``tta_record``; None answers the pictures as they are.

    Returns:
        Mean probabilities [..., b, classes].
    """
    if record is None:
        return answer(images)
    views = make_views(images, record)
    count = len(views)
    stacked = tf.stack(views)
    # A loop, so that the network is traced once more, not once a view.
    _, total = tf.while_loop(
        lambda index, total: index < count,
        lambda index, total: (index + 1, total + answer(stacked[index])),
        (tf.constant(1), answer(stacked[0])),
        parallel_iterations=1,
    )
    return total / count


def answer_views(
    logits: Callable[[tf.Tensor], tf.Tensor],
    images: tf.Tensor,
    record: dict[str, Any] | None,
    *,
    multi_label: bool = False,
) -> tf.Tensor:
    """Return logits [b, classes] whose softmax is the mean over the views.

    Args:
        logits: Maps images [b, H, W, C] to logits [b, classes].
        images: As of ``average_views``.
        record: As of ``average_views``.
        multi_label: Whether probabilities come from a sigmoid each, in place of the softmax.
    """
    if record is None:
        return logits(images)
    if multi_label:
        # Present and absent are averaged apart: 1 - p of a p near 1 would be rounded away.
        present, absent = tf.unstack(_log(average_views(lambda view: _both(logits(view)), images, record)))
        return present - absent
    # Logarithms of probabilities are logits.
    return _log(average_views(lambda view: tf.nn.softmax(logits(view)), images, record))


def _both(logits: tf.Tensor) -> tf.Tensor:
    """Return the probabilities that each class is there, and that it is not, [2, b, classes]."""
    return tf.sigmoid(tf.stack([logits, -logits]))


def _log(mean: tf.Tensor) -> tf.Tensor:
    """Return the logarithm; a zero would have none."""
    return tf.math.log(tf.maximum(mean, 1e-30))


def make_views(images: tf.Tensor, record: dict[str, Any]) -> list[tf.Tensor]:
    """Return the views of some pictures, each float32 [b, H, W, C]; pure functions of the pictures.

    Source of the crops: Krizhevsky et al. 2012, section 4.1, stretched to the input size.
    """
    tta, drawn = _settings(record)
    views = [images] if tta.crops == 1 else [_crop(images, top, left, tta.crop_scale) for top, left in _PLACES]
    if tta.flip:
        views += [tf.reverse(view, [2]) for view in views]
    return views + [_draw(images, tta.seed, view, drawn) for view in range(tta.views)]


# AutoGraph warns of what it cannot convert, and there is nothing here to convert.
@tf.autograph.experimental.do_not_convert
def _settings(record: dict[str, Any]) -> tuple[TtaConfig, AugmentConfig]:
    tta = TtaConfig.model_validate({name: value for name, value in record.items() if name != "augment"})
    return tta, AugmentConfig.model_validate(record["augment"])


def _crop(images: tf.Tensor, top: float, left: float, scale: float) -> tf.Tensor:
    size = images.shape[1:3].as_list()
    rest = 1.0 - scale
    box = tf.constant([top * rest, left * rest, top * rest + scale, left * rest + scale])
    count = tf.shape(images)[0]
    return tf.image.crop_and_resize(images, tf.tile(box[None], [count, 1]), tf.range(count), size)


def _draw(images: tf.Tensor, seed: int, view: int, config: AugmentConfig) -> tf.Tensor:
    """Augment all pictures with the draws of one view; a served picture has no number to draw from."""
    key = tf.constant([seed, view], tf.int64)
    size = images.shape[1:3].as_list()
    draws = split_draws(draw_example(key, config), config)
    choose_box = box_chooser(draws, config)

    def draw(image: tf.Tensor) -> tf.Tensor:
        if choose_box is not None:
            top, left, height, width = tf.unstack(choose_box(tf.constant(size)))
            part = image[top : top + height, left : left + width]
            image = tf.ensure_shape(tf.image.resize(part, size, antialias=True), [*size, image.shape[-1]])
        return change(image, key, draws, config)

    return tf.map_fn(draw, images)
