"""BatchNormalization statistics computed anew over the training split."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rayft.learn.step import Batch, Task
from rayft.learn.sums import make_sum
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

    def batch_sums(batch: Batch) -> tf.Tensor:
        totals = [tf.zeros([size], tf.float64) for size in sizes]
        counts = [tf.zeros([], tf.float64) for _ in sizes]
        for part in range(task.in_parts.parts):
            own: list = []
            piece = task.in_parts.part_of(batch, part)
            with replica_batch(task.place_of(piece, own)):
                task.logits(piece, training=True)
            for layer, mean, variance, count in own:
                for variable, value in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
                    index = order[id(variable)]
                    totals[index] += tf.cast(count, tf.float64) * tf.cast(value, tf.float64)
                    counts[index] += tf.cast(count, tf.float64)
        return tf.concat([*totals, tf.stack(counts)], axis=0)

    sum_over = make_sum(task, batch_sums, sum(sizes) + len(sizes), alive)

    def statistics(batches: tf.data.Dataset, steps: int) -> list[tf.Tensor]:
        *totals, counts = tf.split(sum_over(iter(batches), steps), [*sizes, len(sizes)])
        return [
            tf.cast(total / count, variable.dtype)
            for total, count, variable in zip(totals, tf.unstack(counts), task.statistics, strict=True)
        ]

    return statistics
