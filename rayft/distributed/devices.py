"""How TensorFlow is set up in one worker process, before its first operation."""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

from rayft.config import ClusterConfig


@dataclass(frozen=True)
class DevicePlan:
    """What a worker's TensorFlow may use.

    Attributes:
        intra_op_threads: Threads inside one operation; the worker's CPU share.
        inter_op_threads: Operations at once; one more than the share, so that a collective never
            waits for the thread that its partner needs.
        communication: Collective implementation: NCCL between GPUs, RING between CPUs.
        memory_growth: Take GPU memory as needed, since Ray may share the device.
    """

    intra_op_threads: int
    inter_op_threads: int
    communication: str
    memory_growth: bool


def plan_devices(config: ClusterConfig) -> DevicePlan:
    """Decide threads, collectives and GPU memory from a worker's share."""
    threads = max(1, math.floor(config.cpus_per_worker))
    on_gpu = config.gpus_per_worker > 0
    return DevicePlan(threads, threads + 1, "NCCL" if on_gpu else "RING", on_gpu)


def prepare_tensorflow(plan: DevicePlan):
    """Import and set up TensorFlow; returns the multi-worker strategy of this process."""
    tf = set_up_tensorflow(plan)
    implementation = getattr(tf.distribute.experimental.CommunicationImplementation, plan.communication)
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(implementation=implementation)
    )


def set_up_tensorflow(plan: DevicePlan):
    """Import TensorFlow with the threads and memory of the plan; returns the module."""
    # Ray Train sets this for tf_keras; with it, Keras 3 models would fail to build.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _without_collection():
        import keras  # noqa: F401
        import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(plan.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(plan.inter_op_threads)
    # Ray has already hidden every device but this worker's.
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus if plan.memory_growth else []:
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Make objects that stay, such as modules, without looking for garbage among them again and again.

    Measured: TensorFlow's import takes a quarter to a half of its CPU time for that.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # What is there now is not looked through later either.
        gc.freeze()
        if was_enabled:
            gc.enable()
