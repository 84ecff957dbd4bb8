"""One optimizer update over all trainable variables, held as a few flat vectors."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rayft.config import OptimConfig
from rayft.learn.keras_optimizer import ELEMENTWISE, get_optimizer
from rayft.learn.schedule import learning_rate


class Updater:
    """Turns gradients, already summed over replicas, into new weights.

    Attributes:
        order: Indices of the variables in the order of the flat gradient: decayed ones first.
        state: The variables of the optimizer and the flat weights, by name.
    """

    def __init__(
        self,
        config: OptimConfig,
        variables: list[keras.Variable],
        local: list[tf.Variable],
        total_steps: int,
        rate_factors: Sequence[float] | None = None,
        *,
        phase_factor: float = 1.0,
        late: bool = False,
    ) -> None:
        """Build the optimizer's state.

        Args:
            config: Optimizer, schedule, decay and clipping.
            variables: The trainable variables, for their roles.
            local: This replica's component of each of them.
            total_steps: Steps of the whole run, for the schedule.
            rate_factors: Factor of the learning rate of each variable; all 1 where not given.
            phase_factor: Factor of this phase on the learning rate.
            late: Some of the variables may have joined after the first update.
        """
        self._config = config
        self._total_steps = total_steps
        self._phase_factor = phase_factor
        self._optimizer = get_optimizer(config)
        decayed = [index for index, variable in enumerate(variables) if _decays(variable)]
        spared = [index for index in range(len(variables)) if index not in set(decayed)]
        self.order = decayed + spared
        self._decayed_size = sum(int(np.prod(local[index].shape)) for index in decayed)
        self._targets = [local[index] for index in self.order]
        self._sizes = [int(np.prod(target.shape)) for target in self._targets]
        self._rate_factors = None if rate_factors is None else [rate_factors[index] for index in self.order]
        # No constant, so that another run of the same network takes the same compiled steps.
        self._peak = tf.Variable(config.learning_rate, trainable=False, dtype=tf.float32)
        self._plateau_factor = tf.Variable(1.0, trainable=False) if config.schedule == "plateau" else None
        self._flat = type(self._optimizer) in ELEMENTWISE.values()
        if self._flat:
            flat = self._concatenated()
            self._weights = [keras.Variable(flat, dtype=flat.dtype.name, name="flat_weights")]
            self._element_factors = None if rate_factors is None else self.spread(rate_factors)
            # One fused pass over memory for any of these optimizers: under half the time of one pass an operation.
            self._update = tf.function(self._decay_and_update, autograph=False, jit_compile=True)
        else:
            self._weights = [
                keras.Variable(target.numpy(), dtype=target.dtype.name, name=f"weight_{index}")
                for index, target in enumerate(self._targets)
            ]
        self._optimizer.build(self._weights)
        # Updates that were over when each variable joined, in ``order``.
        self._joined = keras.Variable(np.zeros(len(local), "int64"), trainable=False, name="joined") if late else None

    @property
    def state(self) -> list[keras.Variable]:
        """The optimizer's own variables, learning rate left out."""
        own = [v for v in self._optimizer.variables if v is not self._optimizer._learning_rate]
        return own if self._joined is None else [*own, self._joined]

    def carry_state(self, earlier: Updater) -> None:
        """Take over what an earlier phase knows of the variables that it trained; the others start fresh.

        An optimizer that corrects its moments for their start, as Adam does, counts the updates of each
        variable from its own first one.
        """
        assert self._joined is not None, "built as late"
        self._optimizer._iterations.assign(earlier._optimizer._iterations)
        places = self._places(earlier)
        now = int(earlier._optimizer._iterations.numpy())
        joined = np.zeros(len(earlier._targets), "int64") if earlier._joined is None else earlier._joined.numpy()
        self._joined.assign(np.array([now if place is None else joined[place] for place in places]))
        for own, theirs in zip(_slots(self._optimizer), _slots(earlier._optimizer), strict=True):
            if self._flat:
                own[0].assign(self.merge(earlier, own[0].numpy(), theirs[0].numpy()))
            else:
                for slot, place in zip(own, places, strict=True):
                    if place is not None and slot is not None and theirs[place] is not None:
                        slot.assign(theirs[place])
        if isinstance(self._optimizer, keras.optimizers.Nadam):
            vars(self._optimizer)["_u_product"].assign(vars(earlier._optimizer)["_u_product"])

    def merge(self, earlier: Updater, own: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Return ``own`` [size] with the values that ``earlier`` has, ``theirs``, of variables that both have."""
        parts = np.split(own, np.cumsum(self._sizes)[:-1])
        known = np.split(theirs, np.cumsum(earlier._sizes)[:-1])
        places = self._places(earlier)
        return np.concatenate(
            [part if place is None else known[place] for part, place in zip(parts, places, strict=True)]
        )

    def _places(self, earlier: Updater) -> list[int | None]:
        """For each variable, in ``order``, where an earlier updater has it."""
        before = {id(target): index for index, target in enumerate(earlier._targets)}
        return [before.get(id(target)) for target in self._targets]

    @property
    def size(self) -> int:
        """Number of trainable weights."""
        return sum(self._sizes)

    def weights(self) -> tf.Tensor:
        """Return all trainable weights, float [size], in ``order``."""
        if self._flat:
            return self._weights[0].value
        return tf.concat([tf.reshape(weight.value, [-1]) for weight in self._weights], axis=0)

    def spread(self, values: Sequence[float]) -> tf.Tensor:
        """Repeat one value for each variable over its elements; float [size], in ``order``."""
        parts = [np.full(size, values[index]) for index, size in zip(self.order, self._sizes, strict=True)]
        return tf.constant(np.concatenate(parts), self._weights[0].dtype)

    def write(self, weights: tf.Tensor) -> None:
        """Let the model compute with ``weights``, float [size], until the next update or ``write``."""
        for target, part in zip(self._targets, tf.split(weights, self._sizes), strict=True):
            target.assign(tf.reshape(part, target.shape))

    def learning_rate(self, step: tf.Tensor) -> tf.Tensor:
        """Return the rate of a step, which the factors of the variables leave out."""
        factor = 1.0 if self._plateau_factor is None else self._plateau_factor
        return self._phase_factor * learning_rate(self._config, step, self._total_steps, factor, self._peak)

    def set_peak(self, rate: float) -> None:
        """Say what ``optim.learning_rate`` is now."""
        self._peak.assign(rate)

    def set_plateau_factor(self, factor: float) -> None:
        """Say what drops on the validation metric have left of the rate."""
        if self._plateau_factor is not None:
            self._plateau_factor.assign(factor)

    def reload(self) -> None:
        """Take the weights anew from the model, after they were restored."""
        if self._flat:
            self._weights[0].assign(self._concatenated())
        else:
            for weight, target in zip(self._weights, self._targets, strict=True):
                weight.assign(target)

    def apply(self, gradient: tf.Tensor, step: tf.Tensor) -> None:
        """Clip, decay, update, and write the weights back to the model.

        Args:
            gradient: float [n], all gradients flat, in ``order``, summed over replicas.
            step: int64 [], steps done before this one.
        """
        if self._config.clip_norm is not None:
            gradient = tf.clip_by_norm(gradient, tf.cast(self._config.clip_norm, gradient.dtype))
        rate = tf.cast(self.learning_rate(step), gradient.dtype)
        if isinstance(self._optimizer, keras.optimizers.Nadam):
            self._advance_nadam()
        if self._flat:
            self._update(gradient, rate)
            self.write(self._weights[0].value)
        else:
            self._update_each(gradient, rate)
        self._optimizer.iterations.assign_add(1)

    def _advance_nadam(self) -> None:
        """Keras keeps the product of Nadam's momentum schedule up to date outside of update_step."""
        product = self._optimizer._u_product
        step = tf.cast(self._optimizer.iterations + 1, product.dtype)
        product.assign(product * self._optimizer.beta_1 * (1 - 0.5 * tf.pow(tf.cast(0.96, product.dtype), step)))

    def _decay_and_update(self, gradient: tf.Tensor, rate: tf.Tensor) -> None:
        (weights,) = self._weights
        if self._element_factors is not None:
            rate = rate * self._element_factors
        if self._config.weight_decay and self._decayed_size:
            keep = 1 - rate * self._config.weight_decay
            decayed = tf.fill([self._decayed_size], keep) if keep.shape.rank == 0 else keep[: self._decayed_size]
            spared = tf.ones([self.size - self._decayed_size], gradient.dtype)
            weights.assign(weights * tf.concat([decayed, spared], axis=0))
        with self._counting(self._for_each_element):
            self._optimizer.update_step(gradient, weights, rate)

    def _update_each(self, gradient: tf.Tensor, rate: tf.Tensor) -> None:
        before = 0
        factors = self._rate_factors or [1.0] * len(self._weights)
        parts = tf.split(gradient, self._sizes)
        each = zip(self._weights, self._targets, parts, factors, strict=True)
        for index, (weight, target, part, factor) in enumerate(each):
            own_rate = rate if factor == 1 else rate * factor
            if self._config.weight_decay and before < self._decayed_size:
                weight.assign(weight * (1 - own_rate * self._config.weight_decay))
            before += int(np.prod(target.shape))
            with self._counting(operator.itemgetter(index)):
                self._optimizer.update_step(tf.reshape(part, target.shape), weight, own_rate)
            target.assign(weight.value)

    def _for_each_element(self, joined: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.fill([size], joined[index]) for index, size in enumerate(self._sizes)], axis=0)

    @contextlib.contextmanager
    def _counting(self, joined_of: Callable[[tf.Tensor], tf.Tensor]) -> Iterator[None]:
        """Let the optimizer count the updates of late variables from when they joined."""
        count = self._optimizer._iterations
        if self._joined is None:
            yield
            return
        # A plain attribute: Keras would track a tensor that is assigned.
        vars(self._optimizer)["_iterations"] = count.value - tf.cast(joined_of(self._joined.value), count.dtype)
        try:
            yield
        finally:
            vars(self._optimizer)["_iterations"] = count

    def _concatenated(self) -> np.ndarray:
        return np.concatenate([target.numpy().ravel() for target in self._targets])


def _slots(optimizer: keras.optimizers.Optimizer) -> list[list[Any]]:
    """The optimizer's lists of one variable for each weight."""
    size = len(optimizer._trainable_variables)
    lists = [
        value
        for name, value in sorted(vars(optimizer).items())
        if isinstance(value, list) and len(value) == size and name != "_variables"
    ]
    mine = {id(variable) for variable in optimizer.variables}
    return [
        values
        for values in lists
        if all(value is None or isinstance(value, keras.Variable) for value in values)
        and any(id(value) in mine for value in values)
    ]


def _decays(variable: keras.Variable) -> bool:
    """Biases and the vectors of normalisation layers have one dimension."""
    return len(variable.shape) > 1
