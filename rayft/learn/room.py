"""Whether memory and disk have room for a run."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import tensorflow as tf

from rayft.config import RunConfig, is_auto
from rayft.data.order import replica_batch_size
from rayft.errors import ClusterError, RunFailed, StorageError
from rayft.learn.batch_size import largest_batch
from rayft.model.network import Network
from rayft.prefix.decide import show_size
from rayft.storage import Storage

# Activations are kept for the gradient, which takes as much again.
_COPIES_OF_ACTIVATIONS = 2
# A batch whose rough need is less than this part of the memory can be tried without danger.
_SAFE_PART = 0.5


def require_batch_fits(config: RunConfig, network: Network, num_classes: int, memory: int) -> None:
    """Refuse a batch far too large, before it takes the memory of this machine.

    What is near the limit is measured with smaller batches, as ``data.global_batch_size: auto`` does. A GPU says
    itself when it is full.

    Args:
        config: The run; nothing is done where its batch size is ``auto``.
        network: Of the run.
        num_classes: Width of the logits.
        memory: Bytes that a worker may take.

    Raises:
        RunFailed: The batch does not fit; says what would.
    """
    size, workers, parts = config.data.global_batch_size, config.cluster.workers, config.train.accumulate_steps
    if is_auto(size) or tf.config.list_logical_devices("GPU"):
        return
    part = replica_batch_size(-(-size // parts), workers)
    if part * activation_bytes(network) * _COPIES_OF_ACTIVATIONS < _SAFE_PART * memory:
        return
    tree = config.model_dump()
    tree["train"]["accumulate_steps"] = 1
    fits = largest_batch(RunConfig.model_validate(tree), num_classes, most=part, memory=memory)
    if fits < part:
        raise RunFailed(
            f"A worker's part of a batch is {part} examples; about {fits} fit into the {show_size(memory)} that it may "
            "take.",
            f"Set data.global_batch_size to {fits * workers * parts} or less, or train.accumulate_steps to "
            f"{-(-part * parts // fits)} or more.",
        )


def check_memory(worker_bytes: int, workers: int, available: int) -> str:
    """Say that the workers of one machine fit into its memory.

    Args:
        worker_bytes: Of one worker.
        workers: On one machine.
        available: Bytes that it can still give.

    Raises:
        ClusterError: They do not; says what would.
    """
    needed = worker_bytes * workers
    said = f"{workers} x {show_size(worker_bytes)} on a machine that can give {show_size(available)}"
    if needed <= available:
        return said
    fits = available // worker_bytes
    fewer = f"Set cluster.workers to {fits}, " if fits else "Take "
    raise ClusterError(f"{said}.", f"{fewer}a smaller batch or network, or a machine with more memory.")


def check_room(storage: Storage, needed: int) -> str:
    """Say that a storage has room for what a run writes.

    Raises:
        StorageError: It has not.
    """
    if not storage.is_local:
        return f"the run writes {show_size(needed)}; what {storage} has left is not known"
    place = Path(storage.root)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"the run writes {show_size(needed)}, {storage} has {show_size(free)} left"
    if needed > free:
        raise StorageError(
            f"{said}.", "Free some space, lower train.keep_checkpoints, or choose another storage with room."
        )
    return said


def activation_bytes(network: Network) -> int:
    """Return the bytes of all layers' outputs for one picture."""
    shapes = [output.shape[1:] for layer in network.model.layers for output in tf.nest.flatten(layer.output)]
    return sum(4 * math.prod(side or 1 for side in shape) for shape in shapes)
