"""A batch of cached activations, as a step gets it."""

from __future__ import annotations

import tensorflow as tf

from rayft.errors import ConfigError


class CachedBatch(dict[str, tf.Tensor]):
    """A batch with ``features`` in the place of ``image``, which says so when it is asked for one."""

    def __missing__(self, key: str) -> tf.Tensor:
        raise ConfigError(
            f"The step reads batch[{key!r}], but with the prefix cache a batch holds {', '.join(self)}.",
            "Call task.logits(batch, training=True) instead, or set prefix_cache to off.",
        )
