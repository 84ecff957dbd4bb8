"""The network as a step calls it."""

from __future__ import annotations

import tensorflow as tf

from rayft.model.fold import fold_batch_norm
from rayft.model.network import Network

# AutoGraph, which converts steps of the user's own and what they call, finds nothing to convert here, slowly.
as_written = tf.autograph.experimental.do_not_convert


class Forward:
    """The network in two parts: frozen prefix in folded form, then the trainable rest."""

    def __init__(self, network: Network, *, cached: bool = False) -> None:
        """Split ``network`` at its freeze boundary, where it has one.

        Args:
            network: The whole.
            cached: The prefix was computed before, so that none is built here: calls take its activations.
        """
        parts = network.split()
        self._frozen = parts[0] if parts else None
        self.prefix = fold_batch_norm(parts[0]) if parts and not cached else None
        self.suffix = parts[1] if parts else network.model

    def reload(self) -> None:
        """Fold anew, after weights were restored: what an earlier phase froze, a later one may have trained."""
        if self.prefix is not None:
            self.prefix.set_weights(fold_batch_norm(self._frozen).get_weights())

    @as_written
    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map images [b, H, W, C] in [0, 255], or with the prefix cache activations, to logits [b, classes]."""
        features = images if self.prefix is None else self.prefix(images, training=False)
        return self.suffix(features, training=training)

    @property
    def penalty(self) -> tf.Tensor | float:
        """Sum of the regularisers that the layers carry."""
        return sum(self.suffix.losses) if self.suffix.losses else 0.0
