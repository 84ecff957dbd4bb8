"""One training step: what it is given, and the step itself."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.objective import Objective
from rayft.data.views import answer_views, tta_record
from rayft.imports import load_object
from rayft.learn.average import MovingAverage, make_average
from rayft.learn.cached_batch import CachedBatch
from rayft.learn.digest import digest
from rayft.learn.distill import Teacher, distillation_loss
from rayft.learn.forward import Forward, as_written
from rayft.learn.groups import pulls, rate_factors
from rayft.learn.in_parts import InParts
from rayft.learn.l2_sp import L2Sp
from rayft.learn.loss_scale import LossScale
from rayft.learn.losses import Loss, get_loss
from rayft.learn.optimizer import Updater
from rayft.learn.state import frozen_variables
from rayft.learn.waits import CollectiveTime
from rayft.model.layers import ReplicaBatch, current_batch, replica_batch, training_statistics
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


class Task:
    """What a step is given.

    Attributes:
        model: Callable (images [b, H, W, C], training) -> logits float32 [b, classes].
        variables: Trainable variables, in the network's order.
        num_replicas: Model copies over all workers.
        teacher: Gives a part of the loss, where the run distils.
        strategy: Spans the workers.
        updater: Turns summed gradients into weights.
        statistics: Moving means and variances of the BatchNormalization layers that train.
        average: Averaged weights that the network holds while it is judged; None where training's own are judged.
        in_parts: Computes a batch in parts, or uphill, where that is asked for.
        objective: What the labels ask of the network.
        collective_time: Of the sums of gradients over replicas.
    """

    def __init__(
        self,
        config: RunConfig,
        network: Network,
        *,
        total_steps: int,
        strategy: tf.distribute.Strategy | None = None,
        cached: bool = False,
        teacher: Teacher | None = None,
        anchors: dict[int, np.ndarray] | None = None,
        objective: Objective | None = None,
    ) -> None:
        """Bind a network to its loss, optimizer and replicas.

        Without a strategy it is the current one; without an objective, one label and no weights.

        With ``cached`` the batches hold activations at the freeze boundary instead of pictures.

        Call it outside of the strategy's scope: what it makes belongs to this process alone.

        Args:
            config: The run.
            network: In the phase whose steps are taken.
            total_steps: Steps of the whole run.
            strategy: Spans the workers.
            cached: The batches hold activations at the freeze boundary.
            teacher: Gives a part of the loss, where the run distils.
            anchors: Initial weights by id of the variable, for L2-SP in a network that was trained before.
            objective: What the labels ask of the network.

        Raises:
            ConfigError: Loss, optimizer or step cannot be loaded.
        """
        self.strategy = strategy = strategy or tf.distribute.get_strategy()
        phase = network.phases[network.phase]
        self.network = network
        self.model = Forward(network, cached=cached)
        self.variables = list(network.model.trainable_variables)
        self.num_replicas = strategy.num_replicas_in_sync
        self.teacher = teacher
        self._config = config
        self.objective = objective or Objective()
        self._loss: Loss = get_loss(config.train, self.objective)
        self._step: Step = load_object(config.train.step, purpose="train.step") if config.train.step else train_step
        local = [strategy.experimental_local_results(variable.value)[0] for variable in self.variables]
        self._device = local[0].device
        self._rank = strategy.cluster_resolver.task_id or 0 if strategy.cluster_resolver else 0
        self.updater = Updater(
            config.optim,
            self.variables,
            local,
            total_steps,
            rate_factors(config.optim, network),
            phase_factor=phase.rate,
            late=network.phase > 0,
        )
        self.loss_scale = LossScale(2.0**15 if config.train.precision == "float16" else 1.0)
        self.collective_time = CollectiveTime()
        self.statistics = training_statistics(network.model)
        self.average = make_average(config.train, self.updater, self.statistics)
        l2_sp = config.train.l2_sp
        initial = None
        if anchors is not None:
            initial = np.concatenate([anchors[id(self.variables[index])].ravel() for index in self.updater.order])
        self._l2_sp = L2Sp(self.updater, *pulls(l2_sp, network), initial) if l2_sp.alpha or l2_sp.beta else None
        self.in_parts = InParts(self, config.train.accumulate_steps, config.optim.sam.rho, config.train.step)

    @functools.cached_property
    def frozen_sha256(self) -> str:
        """Digest of the frozen weights, which no step changes."""
        return digest(frozen_variables(self))

    def carry_state(self, earlier: Task) -> None:
        """Go on from the state of an earlier phase of the same network: optimizer, average, loss scale."""
        self.updater.carry_state(earlier.updater)
        if self.average is not None and earlier.average is not None:
            self.average.carry_state(earlier.average)
        self.loss_scale.scale.assign(earlier.loss_scale.scale)
        self.loss_scale.good_steps.assign(earlier.loss_scale.good_steps)

    @property
    def runs_own_code(self) -> bool:
        """Whether a step, loss or optimizer of the user's own is part of a step."""
        config = self._config
        return config.train.step is not None or ":" in config.train.loss or ":" in config.optim.name

    def run_step(self, batch: Batch) -> tf.Tensor:
        """Run the configured step on this replica's slice; returns the global mean loss, a scalar."""
        loss = self.in_parts.run_step(batch) if self.in_parts.is_on else self.take_step(batch)
        if isinstance(self.average, MovingAverage):
            self.average.add(batch["step"])
        return loss

    def take_step(self, batch: Batch) -> tf.Tensor:
        """Call the configured step on a slice, or on a part of it."""
        with replica_batch(self.place_of(batch)):
            return self._step(self, CachedBatch(batch) if "features" in batch else batch)

    def place_of(self, batch: Batch, moments: list | None = None) -> ReplicaBatch:
        """Return what the layers need to know of a batch, or of a part of it."""
        return ReplicaBatch(
            position=batch["position"],
            weight=batch["weight"],
            step=batch["step"],
            seed=self._config.seed,
            global_batch_size=self._config.data.global_batch_size,
            gather=self._gather,
            may_be_empty=self.in_parts.parts > 1,
            moments=moments,
        )

    @as_written
    def logits(self, batch: Batch, training: bool = False) -> tf.Tensor:
        """Return the logits float [b, classes] of a batch of pictures or of cached activations."""
        return self.model(batch["features"] if "features" in batch else batch["image"], training=training)

    def answer(self, batch: Batch) -> tf.Tensor:
        """Return the logits [b, classes] of a batch as evaluation sees them, averaged over views if so set."""
        record = tta_record(self._config)
        if record is None:
            return self.logits(batch)
        # The prefix cache declines such a run, so that there are pictures.
        return answer_views(
            lambda view: self.model(view, training=False),
            batch["image"],
            record,
            multi_label=self.objective.multi_label,
        )

    def loss(self, labels: tf.Tensor, logits: tf.Tensor, batch: Batch) -> tf.Tensor:
        """Return this replica's part of the mean loss over the global batch.

        Args:
            labels: int32 [b], or float32 [b, classes] of several labels, or mixed ones.
            logits: float [b, classes].
            batch: Gives weight [b] and count [].

        Returns:
            Scalar; its sum over replicas, and over the parts of a batch, is the mean over real examples plus
            the regularisers.
        """
        each = self._loss(labels, logits)
        if self.teacher is not None:
            own = distillation_loss(self.teacher.logits(batch["image"]), logits, self.teacher.temperature)
            each = (1 - self.teacher.weight) * each + self.teacher.weight * tf.cast(own, each.dtype)
        weight = tf.cast(batch["weight"], each.dtype)
        mean_part = tf.reduce_sum(each * weight) / tf.cast(batch["count"], each.dtype)
        return mean_part + tf.cast(self.model.penalty, each.dtype) / (self.num_replicas * self.in_parts.parts)

    @as_written
    def minimize(self, tape: tf.GradientTape, loss: tf.Tensor) -> tf.Tensor:
        """Differentiate, sum over replicas, clip, update; returns the loss summed over replicas."""
        scale = tf.cast(self.loss_scale.scale.value, loss.dtype)
        return self.apply(tape.gradient(loss, self.variable_values, output_gradients=scale), loss)

    @property
    def variable_values(self) -> list[tf.Variable]:
        """The TensorFlow variables behind ``variables``, as a tape watches them."""
        return [variable.value for variable in self.variables]

    @as_written
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
        flat = self._flatten(gradients, loss)
        if self.in_parts.collecting:
            self.in_parts.collect(flat)
            return loss
        total = self.sum_gradient(flat)
        return self.update(total[:-1], total[-1], batch.step)

    def _flatten(self, gradients: list[tf.Tensor | None], loss: tf.Tensor) -> tf.Tensor:
        """Return the gradient [n] in the updater's order and the loss as one vector."""
        parts = []
        for index in self.updater.order:
            gradient, variable = gradients[index], self.variables[index]
            flat = tf.zeros([tf.size(variable.value)]) if gradient is None else tf.reshape(gradient, [-1])
            parts.append(tf.cast(flat, variable.dtype))
        parts.append(tf.cast(loss, parts[0].dtype)[None])
        return tf.concat(parts, axis=0)

    def sum_gradient(self, flat: tf.Tensor) -> tf.Tensor:
        """Sum a flat gradient over replicas; the time of it counts."""
        return self.collective_time.measure(self.all_reduce, flat) if self.num_replicas > 1 else self.all_reduce(flat)

    def all_reduce(self, values: tf.Tensor) -> tf.Tensor:
        """Sum a tensor over replicas; differentiable; every replica must call it."""
        # The strategy takes the destination from the tensor's device, which a traced tensor may lack.
        with tf.device(self._device):
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

    def _gather(self, values: tf.Tensor) -> tf.Tensor:
        row = tf.one_hot(self._rank, self.num_replicas, dtype=values.dtype)
        return self.all_reduce(row[:, None] * values[None, :])

    def update(self, gradient: tf.Tensor, loss: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Unscale, regularise and apply a gradient summed over replicas; returns the loss with the penalty."""
        if self.loss_scale.dynamic:
            finite = tf.reduce_all(tf.math.is_finite(gradient))
            gradient = gradient / tf.cast(self.loss_scale.scale.value, gradient.dtype)
        if self._l2_sp is not None:
            gradient, loss = self._l2_sp.add(gradient, loss)
        if not self.loss_scale.dynamic:
            self.updater.apply(gradient, step)
            return loss

        def apply() -> tf.Tensor:
            self.updater.apply(gradient, step)
            return tf.constant(True)

        tf.cond(finite, apply, lambda: tf.constant(False))
        self.loss_scale.record(finite)
        return loss
