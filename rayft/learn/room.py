"""Whether memory and disk have room for a run."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import tensorflow as tf

from rayft.errors import ClusterError, StorageError
from rayft.model.network import Network
from rayft.prefix.decide import show_size
from rayft.storage import Storage


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
