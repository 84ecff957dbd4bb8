"""Batches of pictures by row, for what is computed once an example."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.config import AugmentConfig, RunConfig
from rayft.data.augment import decode_training_picture
from rayft.data.dataset import Dataset
from rayft.data.draws import draw_fields, draw_specs
from rayft.data.pipeline import INPUT, Tensors, decoded_batches, read


def row_batches(
    dataset: Dataset,
    config: RunConfig,
    image_size: tuple[int, int],
    rows: np.ndarray,
    numbers: tf.data.Dataset,
    *,
    batch_size: int,
    view: int | None,
    threads: int,
) -> tf.data.Dataset:
    """Return pictures by row, for what is computed once an example.

    Args:
        dataset: The examples.
        config: The run.
        image_size: Height and width of the pictures.
        rows: int64 [n], row ids.
        numbers: int64 []; batch k holds the rows from k * batch_size on, the last one repeated in a short batch.
        batch_size: Rows of a batch.
        view: Augmented as in this epoch of training; None for the pictures as they are.
        threads: Pictures decoded at once.

    Returns:
        Dicts of ``image`` float32 [batch_size, H, W, C] in 0..255 and ``batch`` int64 [], its number.
    """
    channels = config.data.channels
    augmentation = AugmentConfig() if view is None else config.data.augment
    specs = {**INPUT, "batch": tf.TensorSpec([], tf.int64), **draw_specs(augmentation)}

    def fetch(number: np.ndarray) -> list[np.ndarray]:
        chosen = rows[np.minimum(int(number) * batch_size + np.arange(batch_size), len(rows) - 1)]
        views = np.full(batch_size, view or 0)
        drawn = draw_fields(config.seed, views, chosen, augmentation)
        return [*read(dataset, None, chosen, None), np.full(batch_size, int(number), np.int64), *drawn]

    def decode(example: Tensors) -> Tensors:
        image = decode_training_picture(example, image_size, channels, augmentation)
        return {"image": image, **example}

    def finish(batch: Tensors) -> Tensors:
        return {**batch, "batch": batch["batch"][0]}

    return decoded_batches(numbers, fetch, specs, decode, finish, batch_size=batch_size, threads=threads)
