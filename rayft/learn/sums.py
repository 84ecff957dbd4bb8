"""A vector summed over the batches of a replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import tensorflow as tf

from rayft.learn.step import Batch, Task

BATCHES_PER_CALL = 8


def make_sum(
    task: Task, of_batch: Callable[[Batch], tf.Tensor], size: int, alive: Callable[[], None]
) -> Callable[[Iterator, int], tf.Tensor]:
    """Return ``sum_over(batches, count)``, compiled once; it gives float64 [size] of this replica.

    Args:
        task: Network and replicas.
        of_batch: Maps a batch to float64 [size], in the replica's context.
        size: Length of the vector.
        alive: Called after every few batches, so that a watchdog sees progress.
    """

    @tf.function(autograph=False)
    def run_batches(iterator: tf.data.Iterator, count: tf.Tensor) -> tf.Tensor:
        def add(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            own = task.strategy.run(of_batch, args=(iterator.get_next(),))
            return index + 1, sums + tf.ensure_shape(own, [size])

        start = (tf.constant(0), tf.zeros([size], tf.float64))
        return tf.while_loop(lambda index, _: index < count, add, start)[1]

    def sum_over(batches: Iterator, count: int) -> tf.Tensor:
        sums = tf.zeros([size], tf.float64)
        for start in range(0, count, BATCHES_PER_CALL):
            sums += run_batches(batches, tf.constant(min(count - start, BATCHES_PER_CALL)))
            alive()
        return sums

    return sum_over
