"""The opened cache of a run, in the place of its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from rayft.prefix.compute import from_stored
from rayft.prefix.shards import Activations


@dataclass
class Cached:
    """Activations at the freeze boundary; batches of them are gathered whole from the mapped shards.

    Attributes:
        views: Of each augmented view of the training pictures; empty without augmentation.
        plain: Of the pictures as they are; of all splits without augmentation. None where an augmented run
            has no other split than train.
    """

    views: tuple[Activations, ...]
    plain: Activations | None

    def follow(self, newer: Cached) -> None:
        """Read from a cache of the same recipe that was opened, and so checked, later."""
        self.views, self.plain = newer.views, newer.plain

    @property
    def stored(self) -> tf.TensorSpec:
        """Shape and dtype of one example in the files."""
        recipe = self._any.recipe
        return tf.TensorSpec(recipe.shape, tf.uint16 if recipe.dtype == "bfloat16" else recipe.dtype)

    def take(self, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray:
        """Return the activations [n, ...] of row ids int64 [n], as stored."""
        if views is None or not self.views:
            assert self.plain is not None, "a cache holds every split"
            return self.plain.take(rows)
        wanted = np.unique(views)
        if len(wanted) == 1:
            return self.views[wanted[0]].take(rows)
        taken = np.empty((len(rows), *self.stored.shape), self.stored.dtype.as_numpy_dtype)
        for view in wanted:
            taken[views == view] = self.views[view].take(rows[views == view])
        return taken

    def decode(self, values: tf.Tensor) -> tf.Tensor:
        """Return stored numbers in the dtype that their recipe names."""
        return from_stored(values, self._any.recipe.dtype)

    @property
    def _any(self) -> Activations:
        source = self.views[0] if self.views else self.plain
        assert source is not None, "a cache holds the training pictures"
        return source
