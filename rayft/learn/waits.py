"""How long a step waits: for its next batch, and for the sum over all workers."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


class CollectiveTime:
    """Adds up, inside of compiled steps, the time from a worker's own values to their sum over all workers.

    That is transfer and waiting for the slowest worker together; the worker that waits least is the slowest.
    """

    def __init__(self) -> None:
        """Begin with none; belongs to this process, so it is made outside of a strategy's scope."""
        with tf.device("CPU:0"):
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="collective_seconds")

    @property
    def seconds(self) -> float:
        """Of all steps of this process so far."""
        return float(self._seconds.numpy())

    def measure(self, reduce: Callable[[tf.Tensor], tf.Tensor], values: tf.Tensor) -> tf.Tensor:
        """Return ``reduce(values)``, a collective, and add its time."""
        # The sum does not wait for the clock: on a GPU that would be a stop at every step.
        begun = now_after(values)
        total = reduce(values)
        self._seconds.assign_add(now_after(total) - begun)
        return total


def now_after(values: tf.Tensor) -> tf.Tensor:
    """Return the time as float64 [] in seconds, read as soon as ``values`` are computed."""
    with tf.device("CPU:0"), tf.control_dependencies([_on_host(values)]):
        return tf.timestamp()


def _on_host(values: tf.Tensor) -> tf.Tensor:
    # A GPU's tensor counts as there when it was asked for; a copy of it on the host, when it was computed.
    if tf.config.list_logical_devices("GPU"):
        return tf.identity(tf.reshape(values, [-1])[:1])
    return values
