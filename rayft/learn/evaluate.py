"""Metrics of the network over a whole split, computed by all workers together."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rayft.learn import metrics, multi_label
from rayft.learn.step import Task
from rayft.learn.sums import make_sum


def make_evaluate(task: Task, classes: int, alive: Callable[[], None] = lambda: None) -> Callable:
    """Return ``evaluate(batches) -> metrics``, compiled once and used for every split.

    Args:
        task: Network and replicas.
        classes: Number of classes.
        alive: Called after every few batches, so that a watchdog sees progress.
    """
    kind = multi_label if task.objective.multi_label else metrics

    def batch_sums(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return kind.metric_sums(batch["label"], task.answer(batch), batch["weight"])

    sum_over = make_sum(task, batch_sums, kind.sums_size(classes), alive)

    @tf.function(autograph=False)
    def over_replicas(sums: tf.Tensor) -> tf.Tensor:
        return task.strategy.run(task.all_reduce, args=(sums,))

    def evaluate(batches: tf.data.Dataset) -> dict[str, float]:
        # Every replica has the same number of batches, short ones padded.
        sums = sum_over(iter(batches), int(batches.cardinality()))
        return kind.metrics_from_sums(over_replicas(sums).numpy(), classes)

    return evaluate
