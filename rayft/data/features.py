"""What may stand in the place of pictures in a batch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf


class Features(Protocol):
    """Values that were computed of each example before, such as the activations at the freeze boundary."""

    @property
    def stored(self) -> tf.TensorSpec:
        """Shape and dtype of one example as ``take`` returns it."""
        ...

    def take(self, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray:
        """Return the values [n, ...] of row ids int64 [n].

        Args:
            rows: Any of the dataset's.
            views: int64 [n], the draws of augmentation that each example is to show; None for pictures as they are.
        """
        ...

    def decode(self, values: tf.Tensor) -> tf.Tensor:
        """Turn what ``take`` returned into what the network takes."""
        ...
