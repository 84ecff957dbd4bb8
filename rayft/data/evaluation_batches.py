"""The batches of evaluation: one rank's part of a split, each example once."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.features import Features
from rayft.data.picture import decode_picture
from rayft.data.pipeline import Tensors, decoded_batches, feature_batches, field_specs, read

_FIELDS = {"label": tf.int32, "weight": tf.float32, "row": tf.int64}


def evaluation_batches(
    dataset: Dataset,
    config: RunConfig,
    image_size: tuple[int, int],
    split: str,
    *,
    rank: int,
    num_workers: int,
    batch_size: int,
    threads: int = 2,
    features: Features | None = None,
) -> tf.data.Dataset:
    """Return this rank's contiguous part of a split, in as many batches as every other rank.

    Args:
        dataset: The examples.
        config: The run.
        image_size: Height and width of the pictures.
        split: train, validation or test; without augmentation.
        rank: This process, from 0.
        num_workers: Processes that share the split.
        batch_size: Examples of one rank's batch.
        threads: Pictures decoded at once.
        features: What was computed of the pictures before; empty where they are read themselves.

    Returns:
        Dicts of ``image`` float32 [batch_size, H, W, C] in 0..255, or ``features`` in its place, ``label``
        as in ``train_batches``, ``weight`` float32 (0 for padding) and ``row`` int64, the index within the
        split, all [batch_size].
    """
    rows, targets = dataset.split(split)["row"].to_numpy(), dataset.targets(split)
    share = -(-len(rows) // num_workers)
    first, end = min(rank * share, len(rows)), min((rank + 1) * share, len(rows))

    def fetch(step: np.ndarray) -> list[np.ndarray]:
        wanted = first + int(step) * batch_size + np.arange(batch_size)
        row = np.minimum(wanted, len(rows) - 1)
        weight = (wanted < end).astype(np.float32)
        return [*read(dataset, features, rows[row], None), targets.take(row), weight, row.astype(np.int64)]

    def decode(example: Tensors) -> Tensors:
        encoded, orientation = example.pop("encoded"), example.pop("orientation")
        image = decode_picture(encoded, image_size, config.data.channels, orientation=orientation)
        return {"image": image, **example}

    steps = tf.data.Dataset.range(-(-share // batch_size))
    specs = field_specs(_FIELDS, targets, features)
    if features is not None:
        return feature_batches(steps, fetch, specs, features, None, batch_size=batch_size)
    return decoded_batches(steps, fetch, specs, decode, None, batch_size=batch_size, threads=threads)
