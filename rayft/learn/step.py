"""One training step: what it is given, and the step itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.objective import Objective
from rayft.data.views import answer_views, tta_record
from rayft.errors import ConfigError
from rayft.imports import load_object
from rayft.learn.losses import Loss, get_loss
from rayft.learn.optimizer import Updater
from rayft.model.fold import fold_batch_norm
from rayft.model.layers import ReplicaBatch, current_batch, replica_batch
from rayft.model.network import Network

Batch = dict[str, tf.Tensor]
Step = Callable[["Task", Batch], tf.Tensor]


def train_step(task: Task, batch: Batch) -> tf.Tensor:
    """Take one optimizer step; the default of ``train.step``.

    Args:
        task: Network, loss and update.
        batch: This replica's slice of the global batch: image float32 [b, H, W, C] in [0, 255], or with
            the prefix cache features [b, ...] in its place; label int32 [b] or float32 [b, classes], weight
            float32 [b] (0 marks padding), count float32 [] (real examples of the global batch), position
            int32 [b], step int64 [].

    Returns:
        Mean loss over the global batch, a scalar.
    """
    with tf.GradientTape() as tape:
        logits = task.logits(batch, training=True)
        loss = task.loss(batch["label"], logits, batch)
    return task.minimize(tape, loss)


class Forward:
    """The network as a step calls it: frozen prefix in folded form, then the trainable rest."""

    def __init__(self, network: Network, *, cached: bool = False) -> None:
        """Split ``network`` at its freeze boundary, where it has one.

        Args:
            network: The whole.
            cached: The prefix was computed before, so that none is built here: calls take its activations.
        """
        parts = network.split()
        self.prefix = fold_batch_norm(parts[0]) if parts and not cached else None
        self.suffix = parts[1] if parts else network.model

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map images [b, H, W, C] in [0, 255], or with the prefix cache activations, to logits [b, classes]."""
        features = images if self.prefix is None else self.prefix(images, training=False)
        return self.suffix(features, training=training)

    @property
    def penalty(self) -> tf.Tensor | float:
        """Sum of the regularisers that the layers carry."""
        return sum(self.suffix.losses) if self.suffix.losses else 0.0


class CachedBatch(dict[str, tf.Tensor]):
    """A batch with ``features`` in the place of ``image``, which says so when it is asked for one."""

    def __missing__(self, key: str) -> tf.Tensor:
        raise ConfigError(
            f"The step reads batch[{key!r}], but with the prefix cache a batch holds {', '.join(self)}.",
            "Call task.logits(batch, training=True) instead, or set prefix_cache to off.",
        )


class LossScale:
    """Dynamic loss scale for float16: halved at an overflow, doubled after 2,000 good steps.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    def __init__(self, initial: float) -> None:
        """Start at ``initial``; 1 for formats with the exponent range of float32."""
        self.dynamic = initial != 1.0
        self.scale = keras.Variable(initial, trainable=False, name="loss_scale", dtype="float32")
        self.good_steps = keras.Variable(0, trainable=False, name="good_steps", dtype="int32")

    def record(self, finite: tf.Tensor) -> None:
        """Adapt the scale to whether this step's gradient was finite."""
        grow = finite & (self.good_steps.value >= 1999)
        scale = self.scale.value
        self.scale.assign(tf.where(finite, tf.where(grow, scale * 2, scale), tf.maximum(scale / 2, 1.0)))
        self.good_steps.assign(tf.where(finite & ~grow, self.good_steps.value + 1, 0))


class Task:
    """What a step is given.

    Attributes:
        model: Callable (images [b, H, W, C], training) -> logits float32 [b, classes].
        variables: Trainable variables, in the network's order.
        num_replicas: Model copies over all workers.
        strategy: Spans the workers.
        objective: What the labels ask of the network.
    """

    def __init__(
        self,
        config: RunConfig,
        network: Network,
        *,
        total_steps: int,
        strategy: tf.distribute.Strategy | None = None,
        cached: bool = False,
        objective: Objective | None = None,
    ) -> None:
        """Bind a network to its loss, optimizer and replicas.

        Without a strategy it is the current one; without an objective, one label and no weights.

        With ``cached`` the batches hold activations at the freeze boundary instead of pictures.

        Call it outside of the strategy's scope: what it makes belongs to this process alone.

        Raises:
            ConfigError: Loss, optimizer or step cannot be loaded.
        """
        self.strategy = strategy = strategy or tf.distribute.get_strategy()
        self.network = network
        self.model = Forward(network, cached=cached)
        self.variables = list(network.model.trainable_variables)
        self.num_replicas = strategy.num_replicas_in_sync
        self._config = config
        self.objective = objective or Objective()
        self._loss: Loss = get_loss(config.train, self.objective)
        self._step: Step = load_object(config.train.step, purpose="train.step") if config.train.step else train_step
        local = [strategy.experimental_local_results(variable.value)[0] for variable in self.variables]
        self._device = local[0].device
        self._rank = strategy.cluster_resolver.task_id or 0 if strategy.cluster_resolver else 0
        self.updater = Updater(config.optim, self.variables, local, total_steps)
        self.loss_scale = LossScale(2.0**15 if config.train.precision == "float16" else 1.0)

    def run_step(self, batch: Batch) -> tf.Tensor:
        """Run the configured step on this replica's slice; returns the global mean loss, a scalar."""
        place = ReplicaBatch(
            position=batch["position"],
            weight=batch["weight"],
            step=batch["step"],
            seed=self._config.seed,
            global_batch_size=self._config.data.global_batch_size,
            gather=self._gather,
        )
        with replica_batch(place):
            return self._step(self, CachedBatch(batch) if "features" in batch else batch)

    def logits(self, batch: Batch, training: bool = False) -> tf.Tensor:
        """Return the logits float [b, classes] of a batch of pictures or of cached activations."""
        return self.model(batch["features"] if "features" in batch else batch["image"], training=training)

    def answer(self, batch: Batch) -> tf.Tensor:
        """Return the logits [b, classes] of a batch as evaluation sees them, averaged over views if so set."""
        record = tta_record(self._config)
        if record is None:
            return self.logits(batch)
        # The prefix cache declines such a run, so that there are pictures.
        return answer_views(lambda view: self.model(view, training=False), batch["image"], record)

    def loss(self, labels: tf.Tensor, logits: tf.Tensor, batch: Batch) -> tf.Tensor:
        """Return this replica's part of the mean loss over the global batch.

        Args:
            labels: int32 [b], or float32 [b, classes] of several labels, or mixed ones.
            logits: float [b, classes].
            batch: Gives weight [b] and count [].

        Returns:
            Scalar; its sum over replicas is the mean over real examples plus the regularisers.
        """
        each = self._loss(labels, logits)
        weight = tf.cast(batch["weight"], each.dtype)
        mean_part = tf.reduce_sum(each * weight) / tf.cast(batch["count"], each.dtype)
        return mean_part + tf.cast(self.model.penalty, each.dtype) / self.num_replicas

    def minimize(self, tape: tf.GradientTape, loss: tf.Tensor) -> tf.Tensor:
        """Differentiate, sum over replicas, clip, update; returns the loss summed over replicas."""
        scale = tf.cast(self.loss_scale.scale.value, loss.dtype)
        return self.apply(tape.gradient(loss, self.variables_values(), output_gradients=scale), loss)

    def variables_values(self) -> list[tf.Variable]:
        """The TensorFlow variables behind ``variables``, as a tape watches them."""
        return [variable.value for variable in self.variables]

    def apply(self, gradients: list[tf.Tensor | None], loss: tf.Tensor) -> tf.Tensor:
        """Sum gradients and loss over replicas in one collective, then clip and update.

        Args:
            gradients: One for each of ``variables``, times the loss scale; None counts as zero.
            loss: This replica's part of the loss, a scalar.

        Returns:
            The loss summed over replicas, a scalar.
        """
        batch = current_batch()
        assert batch is not None, "apply is called inside a step"
        gradient, loss = self.sum_over_replicas(gradients, loss)
        scale = tf.cast(self.loss_scale.scale.value, gradient.dtype)
        if not self.loss_scale.dynamic:
            self.updater.apply(gradient, batch.step)
            return loss
        finite = tf.reduce_all(tf.math.is_finite(gradient))
        tf.cond(finite, lambda: self._update(gradient / scale, batch.step), lambda: tf.constant(False))
        self.loss_scale.record(finite)
        return loss

    def sum_over_replicas(self, gradients: list[tf.Tensor | None], loss: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the flat gradient [n] in the updater's order and the loss, each summed over replicas."""
        parts = []
        for index in self.updater.order:
            gradient, variable = gradients[index], self.variables[index]
            flat = tf.zeros([tf.size(variable.value)]) if gradient is None else tf.reshape(gradient, [-1])
            parts.append(tf.cast(flat, variable.dtype))
        parts.append(tf.cast(loss, parts[0].dtype)[None])
        total = self.all_reduce(tf.concat(parts, axis=0))
        return total[:-1], total[-1]

    def all_reduce(self, values: tf.Tensor) -> tf.Tensor:
        """Sum a tensor over replicas; differentiable; every replica must call it."""
        # The strategy takes the destination from the tensor's device, which a traced tensor may lack.
        with tf.device(self._device):
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

    def _gather(self, values: tf.Tensor) -> tf.Tensor:
        row = tf.one_hot(self._rank, self.num_replicas, dtype=values.dtype)
        return self.all_reduce(row[:, None] * values[None, :])

    def _update(self, gradient: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        self.updater.apply(gradient, step)
        return tf.constant(True)


def state_variables(task: Task) -> list[Any]:
    """All variables that a step may change, in a fixed order."""
    frozen = {
        id(variable)
        for block in task.network.blocks[: task.network.frozen_depth]
        for layer in block.layers
        for variable in layer.weights
    }
    moving = [variable for variable in task.network.model.variables if id(variable) not in frozen]
    return [*moving, *task.updater.state, task.loss_scale.scale, task.loss_scale.good_steps]


def frozen_variables(task: Task) -> list[Any]:
    """The weights of the frozen blocks, in a fixed order."""
    moving = {id(variable) for variable in state_variables(task)}
    return [variable for variable in task.network.model.weights if id(variable) not in moving]
