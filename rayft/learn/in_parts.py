"""A step whose gradients are collected before they are applied: part by part, or twice, once uphill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from rayft.errors import ConfigError

if TYPE_CHECKING:
    from rayft.learn.step import Batch, Task


class InParts:
    """Runs the step of a task without its updates, and takes one with the sum of the gradients.

    Attributes:
        parts: Parts that a batch is computed in, one after the other.
    """

    def __init__(self, task: Task, parts: int, rho: float, own_step: str | None) -> None:
        """Bind to a task.

        Args:
            task: Whose step is run.
            parts: Of ``train.accumulate_steps``.
            rho: Length of the step uphill of sharpness-aware minimisation; 0 takes none.
            own_step: Of ``train.step``.
        """
        self.parts = parts
        self._task, self._rho, self._own_step = task, rho, own_step
        self._collected: list[tf.Tensor] | None = None

    @property
    def is_on(self) -> bool:
        """Whether a step cannot just be run."""
        return self.parts > 1 or self._rho > 0

    @property
    def collecting(self) -> bool:
        """Whether gradients are collected now, instead of applied."""
        return self._collected is not None

    def collect(self, flat: tf.Tensor) -> None:
        """Keep a replica's flat gradient with its loss."""
        assert self._collected is not None, "gradients are collected inside a step"
        self._collected.append(flat)

    def part_of(self, batch: Batch, index: tf.Tensor | int) -> Batch:
        """Return one of ``train.accumulate_steps`` parts of a replica's slice; the pipeline lays them in a row."""

        def take(value: tf.Tensor) -> tf.Tensor:
            size = value.shape[0] // self.parts
            return tf.reshape(value, [self.parts, size, *value.shape[1:]])[index]

        return {key: take(value) if value.shape.rank else value for key, value in batch.items()}

    def run_step(self, batch: Batch) -> tf.Tensor:
        """Sum gradients over parts of the batch before the update; with sharpness-aware minimisation, twice."""
        task = self._task
        total = task.sum_gradient(self._gradient_of(batch))
        gradient, loss = total[:-1], total[-1]
        if self._rho:
            # The sum over all replicas decides the direction, so that it is the same on any number of them.
            length = tf.maximum(tf.norm(gradient), np.finfo("float32").tiny)
            uphill = gradient * (tf.constant(self._rho, gradient.dtype) / length)
            before = [tf.identity(variable.value) for variable in task.statistics]
            task.updater.write(task.updater.weights() + uphill)
            gradient = task.sum_gradient(self._gradient_of(batch))[:-1]
            task.updater.write(task.updater.weights())
            # The moving averages are those of the weights, not of the point uphill.
            for variable, value in zip(task.statistics, before, strict=True):
                variable.assign(value)
        return task.update(gradient, loss, batch["step"])

    def _gradient_of(self, batch: Batch) -> tf.Tensor:
        """Return this replica's flat gradient, times the loss scale, and its part of the loss, as one vector."""
        if self.parts == 1:
            return self._gradient_of_part(batch)

        def add_part(index: tf.Tensor | int, total: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor]:
            # One part after the other, else all would be in memory at once.
            with tf.control_dependencies([total]):
                return index + 1, total + self._gradient_of_part(self.part_of(batch, index))

        task = self._task
        total = tf.zeros([task.updater.size + 1], task.variables[0].dtype)
        if not task.statistics and self._own_step is None:
            start = (tf.constant(0), total)
            return tf.while_loop(lambda index, _: index < self.parts, add_part, start, parallel_iterations=1)[1]
        # TensorFlow allows no collective inside a loop, and these steps may have some.
        for index in range(self.parts):
            total = add_part(index, total)[1]
        return total

    def _gradient_of_part(self, part: Batch) -> tf.Tensor:
        self._collected = []
        try:
            self._task.take_step(part)
            if len(self._collected) != 1:
                raise ConfigError(
                    f"train.step {self._own_step!r} updates the weights {len(self._collected)} times a step.",
                    "Update once, or set train.accumulate_steps to 1 and optim.sam.rho to 0.",
                )
            return self._collected[0]
        finally:
            self._collected = None
