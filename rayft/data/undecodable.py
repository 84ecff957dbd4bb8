"""The examples that stop a pipeline, by name."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.data.dataset import Dataset
from rayft.data.picture import decode_picture


def find_undecodable(dataset: Dataset, positions: np.ndarray, split: str = "train") -> list[str]:
    """Name the examples that TensorFlow cannot decode; to explain an error of the pipeline.

    Args:
        dataset: The examples.
        positions: Indices into the split, as ``batch_positions`` gives them.
        split: train, validation or test.
    """
    examples = dataset.split(split)
    names = []
    for position in np.unique(positions).tolist():
        row = examples["row"][position].as_py()
        (encoded,) = dataset.reader.read(np.array([row]))
        try:
            decode_picture(tf.constant(encoded), (8, 8), 3)
        except tf.errors.OpError:
            names.append(examples["name"][position].as_py())
    return names
