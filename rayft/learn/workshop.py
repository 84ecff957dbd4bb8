"""What the sessions of one process hand on to each other: networks, pipelines, compiled steps."""

from __future__ import annotations

import contextlib
import gc
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.learn.phased import Phased
from rayft.learn.place import Place
from rayft.learn.training import Training
from rayft.model.network import Network, Unfrozen, arrange, build_network, build_unfrozen
from rayft.prefix.boundary import Boundary, describe_boundary
from rayft.prefix.cached import Cached

# Compiled steps and optimizer states at hand at once: one for each of a few freeze depths.
MOST_BENCHES = 4
# What a session's numbers do not depend on, and the rate, which compiled steps read from a variable.
_WITHOUT_INFLUENCE = ("name", "storage", "sweep", "registry", "track")


@dataclass(frozen=True, eq=False)
class Bench:
    """The compiled steps of one network at one freeze depth, with all that they read and write.

    Attributes:
        dataset: The examples of its pipelines.
        phased: Network, loss and update.
        training: Steps and evaluations.
        cached: The activations that they read, or None where they read pictures.
        initial: Variables beside the network's, and their first values.
    """

    dataset: Dataset
    phased: Phased
    training: Training
    cached: Cached | None
    initial: list[tuple[Any, np.ndarray]]

    def begin(
        self, config: RunConfig, place: Place, validating: Callable[[], contextlib.AbstractContextManager]
    ) -> None:
        """Stand where a fresh process would, before the first step of ``config``; the network is reset already."""
        for variable, value in self.initial:
            variable.assign(value)
        updater = self.phased.task.updater
        updater.reload()
        updater.set_peak(config.optim.learning_rate)
        self.training.begin(config, place, validating)


class Workshop:
    """Keeps what took long to build, for the next session in this process that needs the same.

    A session computes with it, bit for bit, what it computes in a fresh process: before it begins, every variable
    is put back to its initial value, which depends on the config alone. A session that raised leaves an
    unknown state behind: throw its workshop away.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        """Begin with nothing; with ``keeps`` false it stays so, for a process that runs one session."""
        self._keeps = keeps
        self._key: str | None = None
        self._built: Unfrozen | None = None
        self._initial: list[np.ndarray] = []
        self._strategy: tf.distribute.Strategy | None = None
        self._boundaries: dict[str, tuple[Dataset, Boundary]] = {}
        self._benches: OrderedDict[str, Bench] = OrderedDict()
        self._litter = False

    def network(self, config: RunConfig, num_classes: int, strategy: tf.distribute.Strategy) -> Network:
        """Return what ``build_network`` does; networks returned earlier are then out of date."""
        if not self._keeps:
            return build_network(config, num_classes, strategy)
        key = _network_key(config, num_classes)
        if self._built is None or key != self._key or strategy is not self._strategy:
            self._boundaries.clear()
            self._benches.clear()
            self._litter = self._built is not None
            self._built = build_unfrozen(config, num_classes, strategy)
            self._key, self._strategy = key, strategy
            self._initial = [_compact(variable) for variable in self._built.model.variables]
        else:
            for variable, value in zip(self._built.model.variables, self._initial, strict=True):
                variable.assign(value)
        return arrange(self._built, config)

    def boundary(self, config: RunConfig, dataset: Dataset, network: Network) -> Boundary:
        """Return what ``describe_boundary`` does at the depth of ``network``, the latest one."""
        key = _steps_key(config)
        known = self._boundaries.get(key)
        if known is None or known[0] is not dataset:
            known = self._boundaries[key] = (dataset, describe_boundary(config, dataset, network, network.frozen_depth))
        return known[1]

    def bench(self, config: RunConfig, dataset: Dataset, cached: Cached | None) -> Bench | None:
        """Return the compiled steps that an earlier session with the same ones left; they read ``cached`` now."""
        key = f"{_steps_key(config)} {cached is not None}"
        found = self._benches.get(key)
        if found is None or found.dataset is not dataset:
            return None
        if found.cached is not None and cached is not None:
            found.cached.follow(cached)
        self._benches.move_to_end(key)
        return found

    def keep(
        self, config: RunConfig, dataset: Dataset, phased: Phased, training: Training, cached: Cached | None
    ) -> None:
        """Keep compiled steps before the first one is taken, where they can be used again."""
        if not self._keeps:
            return
        task = phased.task
        if len(phased.network.phases) > 1 or task.runs_own_code:
            # Later phases compile anew; code of the user's own may hold a state that is not known here.
            self._litter = True
            return
        average = task.average.state if task.average else []
        variables = [*task.updater.state, *average, task.loss_scale.scale, task.loss_scale.good_steps]
        initial = [(variable, _compact(variable)) for variable in variables]
        key = f"{_steps_key(config)} {cached is not None}"
        self._benches[key] = Bench(dataset, phased, training, cached, initial)
        while len(self._benches) > MOST_BENCHES:
            self._benches.popitem(last=False)
            self._litter = True

    def tidy(self, *, always: bool = False) -> None:
        """Free the graphs and functions of earlier sessions that are not kept; between two sessions.

        Args:
            always: Also where this workshop knows of none, since it replaces another one.
        """
        if self._litter or always:
            keras.backend.clear_session()
            gc.collect()
        self._litter = False


def _network_key(config: RunConfig, num_classes: int) -> str:
    size, channels = config.data.image_size, config.data.channels
    # Adapters lie in the blocks that are not frozen.
    freeze = config.freeze.model_dump(mode="json") if config.model.adapter is not None else None
    model = config.model.model_dump(mode="json")
    return json.dumps([model, size, channels, config.train.precision, config.seed, num_classes, freeze], default=str)


def _steps_key(config: RunConfig) -> str:
    tree = config.model_dump(mode="json", exclude=set(_WITHOUT_INFLUENCE))
    del tree["optim"]["learning_rate"]
    return json.dumps(tree, sort_keys=True)


def _compact(variable: Any) -> np.ndarray:
    """Copy a value; one that is the same throughout, as most of an optimizer's are, takes no room."""
    value = np.array(variable)
    first = value.reshape(-1)[:1]
    return np.broadcast_to(first[0], value.shape) if value.size and (value == first).all() else value
