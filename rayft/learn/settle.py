"""Settings that a run chooses for itself: what ``auto`` stands for."""

from __future__ import annotations

import functools

import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.objective import Objective
from rayft.learn.batch_size import available_memory, choose_batch_size, largest_batch, upper_bound
from rayft.learn.distill import Teacher
from rayft.learn.place import Place
from rayft.learn.range_test import measure_losses, pick_rate
from rayft.learn.step import Task
from rayft.model.network import Network
from rayft.runs import BATCH_SIZE, RATE, with_choices


def settle_batch_size(
    config: RunConfig, num_classes: int, train_size: int, place: Place, strategy: tf.distribute.Strategy
) -> RunConfig:
    """Return the config with its batch size settled; the same on every rank. A collective.

    Args:
        config: The run.
        num_classes: Width of the logits.
        train_size: Training examples.
        place: This process among the workers.
        strategy: Spans the workers.
    """
    workers = place.num_workers
    most = max(1, -(-upper_bound(train_size) // workers))
    memory = available_memory() // place.local_workers
    local = largest_batch(config, num_classes, most=most, memory=memory, alive=place.alive)
    # Barrier: the smallest worker decides.
    smallest = int(min(_of_all_ranks(strategy, place.rank, workers, float(local))))
    return with_choices(config, {BATCH_SIZE: choose_batch_size(smallest, workers, train_size)})


def settle_rate(
    config: RunConfig,
    network: Network,
    batches: tf.data.Dataset,
    total_steps: int,
    place: Place,
    strategy: tf.distribute.Strategy,
    teacher: Teacher | None,
    cached: bool,
    objective: Objective,
) -> RunConfig:
    """Return the config with its learning rate settled; the same on every rank. A collective.

    Args:
        config: The run.
        network: In its first phase, and again so afterwards.
        batches: This replica's slices of the global batches from step 0 on.
        total_steps: Steps of the whole run.
        place: This process among the workers.
        strategy: Spans the workers.
        teacher: Gives a part of the loss, where the run distils.
        cached: The batches hold activations at the freeze boundary.
        objective: What the labels ask of the network.
    """
    rates, losses = measure_losses(
        config,
        network,
        batches,
        total_steps=total_steps,
        strategy=strategy,
        alive=place.alive,
        new_task=functools.partial(Task, teacher=teacher, cached=cached, objective=objective),
    )
    # Two digits: a test is no more exact, and a person can repeat them.
    rate = float(f"{pick_rate(rates, losses):.2g}")
    return with_choices(config, {RATE: place.broadcast(rate)})


def _of_all_ranks(strategy: tf.distribute.Strategy, rank: int, workers: int, value: float) -> list[float]:
    @tf.function
    def total(row: tf.Tensor) -> tf.Tensor:
        def sum_over(row: tf.Tensor) -> tf.Tensor:
            # The strategy takes the destination from the tensor's device, which a traced tensor may lack.
            with tf.device(strategy.extended.worker_devices[0]):
                return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(row))

        return strategy.run(sum_over, args=(row,))

    return total(value * tf.one_hot(rank, workers)).numpy().tolist()
