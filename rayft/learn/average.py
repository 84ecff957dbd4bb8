"""Averages of the weights over the steps or epochs of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from rayft.config import TrainConfig
from rayft.learn.optimizer import Updater


class Average:
    """A second set of weights beside the trained one, which the network holds while it is judged or saved.

    Attributes:
        state: Variables that a checkpoint must hold.
    """

    def __init__(self, updater: Updater, statistics: list[Any]) -> None:
        """Start from the weights that the updater holds now.

        Args:
            updater: Holds the trainable weights.
            statistics: Moving averages of BatchNormalization layers that train; the average has its own.
        """
        self._updater = updater
        self._statistics = statistics
        # As an array: Keras would make a variable of a variable the same one.
        weights = updater.weights().numpy()
        self._weights = keras.Variable(weights, dtype=weights.dtype.name, trainable=False, name="average")
        self._own_statistics = [
            keras.Variable(each.numpy(), dtype=each.dtype, trainable=False, name="average_statistics")
            for each in statistics
        ]
        self._count = keras.Variable(0, trainable=False, dtype="int32", name="averaged")
        self.state = [self._weights, *self._own_statistics, self._count]

    def carry_state(self, earlier: Average) -> None:
        """Go on from the average of an earlier phase; what joins has not moved yet, and so is its own average."""
        merged = self._updater.merge(earlier._updater, self._weights.numpy(), earlier._weights.numpy())
        self._weights.assign(merged)
        known = {id(each): own for each, own in zip(earlier._statistics, earlier._own_statistics, strict=True)}
        for each, own in zip(self._statistics, self._own_statistics, strict=True):
            if id(each) in known:
                own.assign(known[id(each)])
        self._count.assign(earlier._count)

    @contextlib.contextmanager
    def in_network(self) -> Iterator[None]:
        """Let the network compute with the average inside the block, and with its own weights behind it."""
        if int(self._count.numpy()) == 0:
            yield
            return
        kept = [each.numpy() for each in self._statistics]
        self._updater.write(self._weights.value)
        _assign(self._statistics, self._own_statistics)
        try:
            yield
        finally:
            self._updater.write(self._updater.weights())
            _assign(self._statistics, kept)


class MovingAverage(Average):
    """Exponential moving average, renewed at every step.

    With ``warmup``, step t keeps at most (1 + t) / (10 + t). Source: Polyak and Juditsky 1992, SIAM J. Control
    Optim. 30; the bound as in tf.train.ExponentialMovingAverage.
    """

    def __init__(self, updater: Updater, statistics: list[Any], *, decay: float, warmup: bool) -> None:
        """Start from the weights that the updater holds now."""
        super().__init__(updater, statistics)
        self._decay, self._warmup = decay, warmup
        self._blend = tf.function(_blend, autograph=False, jit_compile=True)

    def add(self, step: tf.Tensor) -> None:
        """Take in the weights after an update; part of a compiled step.

        Args:
            step: int64 [], steps done before that update.
        """
        dtype = self._weights.value.dtype
        done, decay = tf.cast(step, dtype), tf.constant(self._decay, dtype)
        if self._warmup:
            decay = tf.minimum(decay, (1 + done) / (10 + done))
        self._weights.assign(self._blend(self._weights.value, self._updater.weights(), 1 - decay))
        for own, statistic in zip(self._own_statistics, self._statistics, strict=True):
            own.assign(_blend(own.value, statistic.value, 1 - tf.cast(decay, own.dtype)))
        self._count.assign(1)


class EpochAverage(Average):
    """Plain mean of the weights at the ends of epochs (Izmailov et al. 2018, arXiv:1803.05407)."""

    def add(self) -> None:
        """Take in the weights as they are now."""
        self._count.assign_add(1)
        part = 1 / tf.cast(self._count.value, self._weights.dtype)
        self._weights.assign(_blend(self._weights.value, self._updater.weights(), part))

    def set_statistics(self, values: list[tf.Tensor]) -> None:
        """Take BatchNormalization statistics that were computed with the average."""
        _assign(self._own_statistics, values)


def make_average(config: TrainConfig, updater: Updater, statistics: list[Any]) -> Average | None:
    """Return the average that the config asks for."""
    if config.ema.decay:
        return MovingAverage(updater, statistics, decay=config.ema.decay, warmup=config.ema.warmup)
    if config.swa.start_fraction < 1:
        return EpochAverage(updater, statistics)
    return None


def _blend(old: tf.Tensor, new: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    return old + part * (new - old)


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
