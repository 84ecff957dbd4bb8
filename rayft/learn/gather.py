"""The logits of every example of a split, brought to the chief."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rayft.learn.step import Task

Gather = Callable[[tf.data.Dataset, np.ndarray | None, int], None]


def make_gather(task: Task, *, rank: int, alive: Callable[[], None] = lambda: None) -> Gather:
    """Return ``gather(batches, out, examples)``, compiled once and used for every split; a collective.

    It fills ``out`` float [examples, classes], given on the chief alone, a batch of every replica at a time:
    memory is bounded by one batch of all replicas, wherever ``out`` lies.

    Args:
        task: Network and replicas.
        rank: This process.
        alive: Called after every batch, so that a watchdog sees progress.
    """
    strategy, workers = task.strategy, task.num_replicas

    def of_all(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        logits = task.answer(batch)
        is_mine = tf.one_hot(rank, workers, on_value=True, off_value=False)[:, None, None]
        # Each replica adds zeros to the others' rows, so the sum is exact.
        return task.all_reduce(tf.where(is_mine, logits[None], tf.zeros((), logits.dtype)))

    @tf.function(autograph=False)
    def run_batch(iterator: tf.data.Iterator) -> tf.Tensor:
        return strategy.run(of_all, args=(iterator.get_next(),))

    def gather(batches: tf.data.Dataset, out: np.ndarray | None, examples: int) -> None:
        # The shares of evaluation_batches: contiguous, one a replica.
        share = -(-examples // workers)
        iterator = iter(batches)
        # Every replica has the same number of batches, short ones padded.
        for step in range(int(batches.cardinality())):
            logits = run_batch(iterator).numpy()
            if out is not None:
                size = logits.shape[1]
                for replica in range(workers):
                    start = replica * share + step * size
                    stop = min(start + size, (replica + 1) * share, examples)
                    if stop > start:
                        out[start:stop] = logits[replica, : stop - start]
            alive()

    return gather
