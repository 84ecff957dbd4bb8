"""The order of training examples: which example lies where in which global batch.

The k-th global batch is a pure function of (seed, k). Neither the number of workers nor the
point at which a run was resumed enters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np


def steps_per_epoch(num_examples: int, global_batch_size: int) -> int:
    """Return the number of global batches that cover the examples once; the last may be partial."""
    return -(-num_examples // global_batch_size)


@dataclass(frozen=True)
class Order:
    """The examples of one epoch in their order.

    Attributes:
        examples: int64 [n], indices into the training split.
        repeats: int64 [n], how often each came before in this epoch, as far as it is drawn with repetition for
            one class; None where none comes twice.
    """

    examples: np.ndarray
    repeats: np.ndarray | None

    def batch(self, global_batch_size: int, step_in_epoch: int) -> Order:
        """Return the part that forms the global batch of a step; the last one of an epoch may be shorter."""
        part = slice(step_in_epoch * global_batch_size, (step_in_epoch + 1) * global_batch_size)
        return Order(self.examples[part], None if self.repeats is None else self.repeats[part])


def batch_positions(num_examples: int, global_batch_size: int, seed: int, step: int) -> np.ndarray:
    """Return which examples form the global batch of a step, under uniform sampling.

    Args:
        num_examples: Size of the training split.
        global_batch_size: Examples per step over all workers.
        seed: The run's seed.
        step: Global step from 0, over all epochs.

    Returns:
        int64 [<= global_batch_size], indices into the training split. Shorter only in the last
        step of an epoch.
    """
    epoch, step_in_epoch = divmod(step, steps_per_epoch(num_examples, global_batch_size))
    return Order(epoch_order(num_examples, seed, epoch), None).batch(global_batch_size, step_in_epoch).examples


@functools.lru_cache(maxsize=2)  # Prefetch looks into the next epoch while this one runs.
def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """Return the read-only permutation int64 [num_examples] of one epoch."""
    order = generator(seed, epoch).permutation(num_examples)
    order.setflags(write=False)
    return order


def generator(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    """Return random numbers that are independent of those of other seeds, epochs and streams.

    The key of Philox (Salmon et al. 2011) is (seed, epoch), its counter starts at the stream's own part.
    """
    key = np.array([seed, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def replica_batch_size(global_batch_size: int, num_workers: int) -> int:
    """Return the examples that a replica holds in each step, padding included."""
    return -(-global_batch_size // num_workers)


def replica_positions(global_batch_size: int, num_workers: int, rank: int, parts: int = 1) -> np.ndarray:
    """Return the positions of the global batch that belong to a rank.

    A batch that is computed in several parts is divided into these first, so that what is in a part does not
    depend on the number of workers; each part is then split over the replicas.

    Args:
        global_batch_size: Examples per step over all workers.
        num_workers: Processes that share each global batch.
        rank: This process, from 0.
        parts: ``train.accumulate_steps``.

    Returns:
        int64 [parts * size], the same size on every rank. ``global_batch_size`` marks places to be padded.
    """
    part_size = -(-global_batch_size // parts)
    size = replica_batch_size(part_size, num_workers)
    within = np.arange(rank * size, (rank + 1) * size)
    positions = np.arange(parts)[:, None] * part_size + within
    beyond = (within >= part_size) | (positions >= global_batch_size)
    return np.where(beyond, global_batch_size, positions).ravel()
