"""One training step: what it is given, and the step itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.objective import Objective
from rayft.data.views import answer_views, tta_record
from rayft.errors import ConfigError
from rayft.imports import load_object
from rayft.learn.average import MovingAverage, make_average
from rayft.learn.digest import digest
from rayft.learn.distill import Teacher, distillation_loss
from rayft.learn.groups import pulls, rate_factors
from rayft.learn.l2_sp import L2Sp
from rayft.learn.losses import Loss, get_loss
from rayft.learn.optimizer import Updater
from rayft.model.fold import fold_batch_norm
from rayft.model.layers import ReplicaBatch, current_batch, replica_batch, training_statistics
from rayft.model.network import Network

Batch = dict[str, tf.Tensor]
Step = Callable[["Task", Batch], tf.Tensor]


# AutoGraph, which converts steps of the user's own and what they call, finds nothing to convert here, slowly.
_as_written = tf.autograph.experimental.do_not_convert


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
        self._frozen = parts[0] if parts else None
        self.prefix = fold_batch_norm(parts[0]) if parts and not cached else None
        self.suffix = parts[1] if parts else network.model

    def reload(self) -> None:
        """Fold anew, after weights were restored: what an earlier phase froze, a later one may have trained."""
        if self.prefix is not None:
            self.prefix.set_weights(fold_batch_norm(self._frozen).get_weights())

    @_as_written
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
        teacher: Gives a part of the loss, where the run distils.
        strategy: Spans the workers.
        updater: Turns summed gradients into weights.
        statistics: Moving means and variances of the BatchNormalization layers that train.
        average: Averaged weights that the network holds while it is judged; None where training's own are judged.
        parts: Parts that a batch is computed in, one after the other.
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
        self.statistics = training_statistics(network.model)
        self.average = make_average(config.train, self.updater, self.statistics)
        l2_sp = config.train.l2_sp
        initial = None
        if anchors is not None:
            initial = np.concatenate([anchors[id(self.variables[index])].ravel() for index in self.updater.order])
        self._l2_sp = L2Sp(self.updater, *pulls(l2_sp, network), initial) if l2_sp.alpha or l2_sp.beta else None
        self.parts = config.train.accumulate_steps
        self._rho = config.optim.sam.rho
        # What ``apply`` was given, while gradients are collected instead of applied.
        self._collected: list[tf.Tensor] | None = None

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
        if self.parts == 1 and not self._rho:
            with replica_batch(self.place_of(batch)):
                loss = self._step(self, _as_given(batch))
        else:
            loss = self._step_in_parts(batch)
        if isinstance(self.average, MovingAverage):
            self.average.add(batch["step"])
        return loss

    def place_of(self, batch: Batch, moments: list | None = None) -> ReplicaBatch:
        """Return what the layers need to know of a batch, or of a part of it."""
        return ReplicaBatch(
            position=batch["position"],
            weight=batch["weight"],
            step=batch["step"],
            seed=self._config.seed,
            global_batch_size=self._config.data.global_batch_size,
            gather=self._gather,
            may_be_empty=self.parts > 1,
            moments=moments,
        )

    def part_of(self, batch: Batch, index: tf.Tensor | int) -> Batch:
        """Return one of ``train.accumulate_steps`` parts of a replica's slice; the pipeline lays them in a row."""

        def take(value: tf.Tensor) -> tf.Tensor:
            size = value.shape[0] // self.parts
            return tf.reshape(value, [self.parts, size, *value.shape[1:]])[index]

        return {key: take(value) if value.shape.rank else value for key, value in batch.items()}

    def _step_in_parts(self, batch: Batch) -> tf.Tensor:
        """Sum gradients over parts of the batch before the update; with sharpness-aware minimisation, twice."""
        total = self.all_reduce(self._collect(batch))
        gradient, loss = total[:-1], total[-1]
        if self._rho:
            # The sum over all replicas decides the direction, so that it is the same on any number of them.
            length = tf.maximum(tf.norm(gradient), np.finfo("float32").tiny)
            uphill = gradient * (tf.constant(self._rho, gradient.dtype) / length)
            before = [tf.identity(variable.value) for variable in self.statistics]
            self.updater.write(self.updater.weights() + uphill)
            gradient = self.all_reduce(self._collect(batch))[:-1]
            self.updater.write(self.updater.weights())
            # The moving averages are those of the weights, not of the point uphill.
            for variable, value in zip(self.statistics, before, strict=True):
                variable.assign(value)
        return self._update(gradient, loss, batch["step"])

    def _collect(self, batch: Batch) -> tf.Tensor:
        """Return this replica's flat gradient, times the loss scale, and its part of the loss, as one vector."""
        if self.parts == 1:
            return self._collect_part(batch)

        def add_part(index: tf.Tensor | int, total: tf.Tensor) -> tuple[tf.Tensor | int, tf.Tensor]:
            # One part after the other, else all would be in memory at once.
            with tf.control_dependencies([total]):
                return index + 1, total + self._collect_part(self.part_of(batch, index))

        total = tf.zeros([self.updater.size + 1], self.variables[0].dtype)
        if not self.statistics and self._step is train_step:
            start = (tf.constant(0), total)
            return tf.while_loop(lambda index, _: index < self.parts, add_part, start, parallel_iterations=1)[1]
        # TensorFlow allows no collective inside a loop, and these steps may have some.
        for index in range(self.parts):
            total = add_part(index, total)[1]
        return total

    def _collect_part(self, part: Batch) -> tf.Tensor:
        self._collected = []
        try:
            with replica_batch(self.place_of(part)):
                self._step(self, _as_given(part))
            if len(self._collected) != 1:
                raise ConfigError(
                    f"train.step {self._config.train.step!r} updates the weights {len(self._collected)} times a step.",
                    "Update once, or set train.accumulate_steps to 1 and optim.sam.rho to 0.",
                )
            return self._collected[0]
        finally:
            self._collected = None

    @_as_written
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
        return mean_part + tf.cast(self.model.penalty, each.dtype) / (self.num_replicas * self.parts)

    @_as_written
    def minimize(self, tape: tf.GradientTape, loss: tf.Tensor) -> tf.Tensor:
        """Differentiate, sum over replicas, clip, update; returns the loss summed over replicas."""
        scale = tf.cast(self.loss_scale.scale.value, loss.dtype)
        return self.apply(tape.gradient(loss, self.variable_values, output_gradients=scale), loss)

    @property
    def variable_values(self) -> list[tf.Variable]:
        """The TensorFlow variables behind ``variables``, as a tape watches them."""
        return [variable.value for variable in self.variables]

    @_as_written
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
        if self._collected is not None:
            self._collected.append(flat)
            return loss
        total = self.all_reduce(flat)
        return self._update(total[:-1], total[-1], batch.step)

    def _flatten(self, gradients: list[tf.Tensor | None], loss: tf.Tensor) -> tf.Tensor:
        """Return the gradient [n] in the updater's order and the loss as one vector."""
        parts = []
        for index in self.updater.order:
            gradient, variable = gradients[index], self.variables[index]
            flat = tf.zeros([tf.size(variable.value)]) if gradient is None else tf.reshape(gradient, [-1])
            parts.append(tf.cast(flat, variable.dtype))
        parts.append(tf.cast(loss, parts[0].dtype)[None])
        return tf.concat(parts, axis=0)

    def all_reduce(self, values: tf.Tensor) -> tf.Tensor:
        """Sum a tensor over replicas; differentiable; every replica must call it."""
        # The strategy takes the destination from the tensor's device, which a traced tensor may lack.
        with tf.device(self._device):
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

    def _gather(self, values: tf.Tensor) -> tf.Tensor:
        row = tf.one_hot(self._rank, self.num_replicas, dtype=values.dtype)
        return self.all_reduce(row[:, None] * values[None, :])

    def _update(self, gradient: tf.Tensor, loss: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
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


def _as_given(batch: Batch) -> Batch:
    """The batch as a step is given it."""
    return CachedBatch(batch) if "features" in batch else batch


def state_variables(task: Task) -> list[Any]:
    """All variables that a step of any phase may change, in a fixed order, and the optimizer's of this phase."""
    network = task.network
    moving = [variable for variable in network.model.variables if id(variable) not in network.fixed]
    average = task.average.state if task.average else []
    return [*moving, *task.updater.state, *average, task.loss_scale.scale, task.loss_scale.good_steps]


def frozen_variables(task: Task) -> list[Any]:
    """The weights that stay as they are in every phase, a teacher's among them, in a fixed order."""
    own = [variable for variable in task.network.model.weights if id(variable) in task.network.fixed]
    return own if task.teacher is None else [*own, *task.teacher.variables]
