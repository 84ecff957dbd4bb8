"""Layers whose training-time behaviour does not depend on the number of workers.

Keras draws dropout from the state of each process, and computes batch statistics over each replica's
own slice. The two layers here draw and average over the global batch instead, so that one worker and
many compute the same step. Outside a training step they are the plain Keras layers.
"""

from __future__ import annotations

import contextlib
import contextvars
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src.applications.convnext import StochasticDepth

from rayft.model.adapter import plain_config, plain_weights


@dataclass(frozen=True)
class ReplicaBatch:
    """This replica's place in the global batch, while a step is traced.

    Attributes:
        position: int32 [b], each example's position in the global batch.
        weight: float [b], 1 for examples and 0 for padding.
        step: int64 [], index of the global step.
        seed: Seed of the run.
        global_batch_size: Examples per step, summed over replicas.
        gather: Maps a vector [k] to all replicas' vectors [replicas, k], differentiably.
        may_be_empty: Whether all replicas together may hold nothing but padding.
        moments: Receives (layer, mean, variance, values averaged over) of each BatchNormalization that trains.
    """

    position: tf.Tensor
    weight: tf.Tensor
    step: tf.Tensor
    seed: int
    global_batch_size: int
    gather: Callable[[tf.Tensor], tf.Tensor]
    may_be_empty: bool = False
    moments: list[tuple[Any, tf.Tensor, tf.Tensor, tf.Tensor]] | None = None


_current: contextvars.ContextVar[ReplicaBatch | None] = contextvars.ContextVar("replica_batch", default=None)


@contextlib.contextmanager
def replica_batch(batch: ReplicaBatch) -> Iterator[None]:
    """Tell the layers called inside which part of the global batch they see."""
    token = _current.set(batch)
    try:
        yield
    finally:
        _current.reset(token)


def current_batch() -> ReplicaBatch | None:
    """Return the batch of the step being traced, or None outside a step."""
    return _current.get()


class Dropout(keras.layers.Dropout):
    """Dropout whose mask is a pure function of (seed, step, layer name, position in the global batch).

    Source: Srivastava et al. 2014, JMLR 15; kept units are scaled by 1 / (1 - rate).
    """

    def call(self, inputs, training=False):
        """Drop units of inputs [b, ...] in training."""
        batch = _current.get()
        if batch is None or not training or self.rate == 0:
            return super().call(inputs, training=training)
        noise_shape = self._example_noise_shape(inputs)
        # The mask of the whole global batch is drawn on every replica, which then takes its own rows.
        draw = tf.random.stateless_uniform(
            [batch.global_batch_size, *noise_shape],
            seed=tf.stack([batch.step, tf.constant(batch.seed ^ zlib.crc32(self.name.encode()), tf.int64)]),
        )
        kept = tf.gather(draw, batch.position) >= self.rate
        return tf.where(kept, inputs / (1 - self.rate), tf.zeros_like(inputs))

    def _example_noise_shape(self, inputs: tf.Tensor) -> list[int]:
        shape = list(inputs.shape[1:])
        if self.noise_shape is not None:
            shape = [given or side for given, side in zip(self.noise_shape[1:], shape, strict=True)]
        return shape


class BatchNormalization(keras.layers.BatchNormalization):
    """BatchNormalization over the global batch, padding left out.

    Each replica contributes count, mean and centred sum of squares of its real examples; one collective
    gathers them and Chan's formula joins them, which avoids the cancellation of E[x^2] - E[x]^2.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; Chan, Golub and LeVeque 1983.

    Attributes:
        fixed_statistics: Normalise by the moving statistics in training too, although gamma and beta train.
    """

    fixed_statistics = False

    def call(self, inputs, training=None, mask=None):
        """Normalise inputs [b, ...]."""
        return super().call(inputs, training=training and not self.fixed_statistics, mask=mask)

    def _moments(self, inputs, mask):
        batch = _current.get()
        if batch is None:
            return super()._moments(inputs, mask)
        axes = self._reduction_axes
        weight = tf.reshape(tf.cast(batch.weight, inputs.dtype), [-1] + [1] * (len(inputs.shape) - 1))
        per_example = tf.cast(tf.size(inputs[:1]) // tf.shape(inputs)[self.axis], inputs.dtype)
        count = tf.reduce_sum(weight) * per_example
        keep_shape = [1] * len(inputs.shape)
        keep_shape[self.axis] = -1
        local_mean = tf.reduce_sum(inputs * weight, axes) / tf.maximum(count, 1)
        centred = (inputs - tf.reshape(local_mean, keep_shape)) * weight
        local_squares = tf.reduce_sum(tf.square(centred), axes)

        parts = batch.gather(tf.concat([local_mean, local_squares, count[None]], axis=0))
        means, squares, counts = tf.split(parts, [tf.size(local_mean), tf.size(local_mean), 1], axis=1)
        total = tf.reduce_sum(counts)
        divisor = tf.maximum(total, 1) if batch.may_be_empty else total
        mean = tf.reduce_sum(counts * means, axis=0) / divisor
        variance = tf.reduce_sum(squares + counts * tf.square(means - mean), axis=0) / divisor
        if batch.moments is not None:
            batch.moments.append((self, mean, variance, total))
        if not batch.may_be_empty:
            return mean, variance
        # Then the moving averages move to where they are.
        old = (self.moving_mean, self.moving_variance)
        return tuple(
            tf.where(total > 0, new, tf.cast(each.value, new.dtype))
            for new, each in zip((mean, variance), old, strict=True)
        )


def worker_invariant(model: keras.Model) -> keras.Model:
    """Clone ``model`` with the same weights, its Dropout and BatchNormalization taken from this module."""
    return _replace(model, _to_invariant)


def portable(model: keras.Model) -> keras.Model:
    """Clone ``model`` in plain Keras layers, which load without rayft; adapters are merged into the weights."""
    return _replace(model, _to_plain)


def training_statistics(model: keras.Model) -> list[Any]:
    """Return moving mean and variance of each BatchNormalization that trains, in the order of the layers."""
    layers = [layer for layer in model._flatten_layers(include_self=False) if _has_training_statistics(layer)]
    return [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]


def _has_training_statistics(layer: Any) -> bool:
    fixed = getattr(layer, "fixed_statistics", False)
    return isinstance(layer, keras.layers.BatchNormalization) and layer.trainable and not fixed


def worker_dependent_layers(model: keras.Model) -> list[str]:
    """Name the layers that still draw random numbers from the state of each process."""
    names = []
    for layer in model._flatten_layers(include_self=False):
        generators = [value for value in vars(layer).values() if isinstance(value, keras.random.SeedGenerator)]
        if generators and not isinstance(layer, Dropout):
            names.append(layer.name)
    return sorted(set(names))


def _to_invariant(layer: Any) -> Any:
    # Keras 3.12, the last for Python 3.10, has no batch renormalisation.
    if isinstance(layer, keras.layers.BatchNormalization) and not getattr(layer, "renorm", False):
        return BatchNormalization.from_config(layer.get_config())
    if type(layer) is StochasticDepth:
        # Dropping a whole example's branch is dropout with one draw an example.
        return Dropout(layer.drop_path_rate, noise_shape=(None, 1, 1, 1), name=layer.name, dtype=layer.dtype_policy)
    if type(layer) is keras.layers.SpatialDropout2D and layer.data_format == "channels_last":
        return Dropout(layer.rate, noise_shape=(None, 1, 1, None), name=layer.name, dtype=layer.dtype_policy)
    if type(layer) is keras.layers.SpatialDropout1D:
        return Dropout(layer.rate, noise_shape=(None, 1, None), name=layer.name, dtype=layer.dtype_policy)
    if type(layer) is keras.layers.Dropout:
        return Dropout.from_config(layer.get_config())
    return layer.__class__.from_config(plain_config(layer))


def _to_plain(layer: Any) -> Any:
    for ours, plain in ((Dropout, keras.layers.Dropout), (BatchNormalization, keras.layers.BatchNormalization)):
        if type(layer) is ours:
            return plain.from_config(layer.get_config())
    return layer.__class__.from_config(plain_config(layer))


def _replace(model: keras.Model, clone_function: Callable[[Any], Any]) -> keras.Model:
    clone = keras.models.clone_model(model, clone_function=clone_function, recursive=True)
    clone.set_weights(plain_weights(model))
    for new, old in zip(
        clone._flatten_layers(include_self=False), model._flatten_layers(include_self=False), strict=True
    ):
        new.trainable = old.trainable
    return clone
