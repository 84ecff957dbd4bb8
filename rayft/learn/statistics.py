"""BatchNormalization statistics computed anew over the training split."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rayft.learn.evaluate import BATCHES_PER_CALL
from rayft.learn.step import Batch, Task
from rayft.model.layers import replica_batch


def make_statistics(task: Task, alive: Callable[[], None] = lambda: None) -> Callable:
    """Return ``statistics(batches, steps) -> values`` for the weights that the network holds then.

    The values are means of the moments of each batch, weighted by its size, in the order of
    ``task.statistics``. The network's own moving averages move meanwhile; the caller puts them back.

    Args:
        task: Network and replicas.
        alive: Called after every few batches, so that a watchdog sees progress.
    """
    sizes = [int(variable.shape[0]) for variable in task.statistics]
    order = {id(variable): index for index, variable in enumerate(task.statistics)}
    parts = task.parts

    def batch_sums(batch: Batch) -> tf.Tensor:
        totals = [tf.zeros([size], tf.float64) for size in sizes]
        counts = [tf.zeros([], tf.float64) for _ in sizes]
        for part in range(parts):
            own: list = []
            piece = task.part_of(batch, part)
            with replica_batch(task.place_of(piece, own)):
                task.logits(piece, training=True)
            for layer, mean, variance, count in own:
                for variable, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
                    index = order[id(variable)]
                    totals[index] += tf.cast(count, tf.float64) * tf.cast(value, tf.float64)
                    counts[index] += tf.cast(count, tf.float64)
        return tf.concat([*totals, tf.stack(counts)], axis=0)

    length = sum(sizes) + len(sizes)

    @tf.function
    def run_batches(iterator: tf.data.Iterator, count: tf.Tensor) -> tf.Tensor:
        sums = tf.zeros([length], tf.float64)
        for _ in tf.range(count):
            sums += tf.ensure_shape(task.strategy.run(batch_sums, args=(next(iterator),)), [length])
        return sums

    def statistics(batches: tf.data.Dataset, steps: int) -> list[tf.Tensor]:
        iterator = iter(batches)
        sums = tf.zeros([length], tf.float64)
        while steps > 0:
            count = min(steps, BATCHES_PER_CALL)
            sums += run_batches(iterator, tf.constant(count))
            steps -= count
            alive()
        *totals, counts = tf.split(sums, [*sizes, len(sizes)])
        return [
            tf.cast(total / count, variable.dtype)
            for total, count, variable in zip(totals, tf.unstack(counts), task.statistics, strict=True)
        ]

    return statistics
