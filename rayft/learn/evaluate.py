"""Metrics of the network over a whole split, computed by all workers together."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rayft.learn import metrics, multi_label
from rayft.learn.step import Task

BATCHES_PER_CALL = 8


def make_evaluate(task: Task, classes: int, alive: Callable[[], None] = lambda: None) -> Callable:
    """Return ``evaluate(batches) -> metrics``, compiled once and used for every split.

    Args:
        task: Network and replicas.
        classes: Number of classes.
        alive: Called after every few batches, so that a watchdog sees progress.
    """
    strategy = task.strategy
    kind = multi_label if task.objective.multi_label else metrics
    size = kind.sums_size(classes)

    def batch_sums(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return kind.metric_sums(batch["label"], task.answer(batch), batch["weight"])

    @tf.function(autograph=False)
    def run_batches(iterator: tf.data.Iterator, count: tf.Tensor) -> tf.Tensor:
        def add(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            own = strategy.run(batch_sums, args=(iterator.get_next(),))
            return index + 1, sums + tf.ensure_shape(own, [size])

        start = (tf.constant(0), tf.zeros([size], tf.float64))
        return tf.while_loop(lambda index, _: index < count, add, start)[1]

    @tf.function(autograph=False)
    def over_replicas(sums: tf.Tensor) -> tf.Tensor:
        return strategy.run(task.all_reduce, args=(sums,))

    def evaluate(batches: tf.data.Dataset) -> dict[str, float]:
        # Every replica has the same number of batches, short ones padded.
        left = int(batches.cardinality())
        iterator = iter(batches)
        sums = tf.zeros([size], tf.float64)
        while left > 0:
            count = min(left, BATCHES_PER_CALL)
            sums += run_batches(iterator, tf.constant(count))
            left -= count
            alive()
        return kind.metrics_from_sums(over_replicas(sums).numpy(), classes)

    return evaluate
