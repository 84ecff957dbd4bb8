"""What a run would do about its prefix cache, without building it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.features import Features
from rayft.model.network import Network
from rayft.prefix.boundary import Boundary, describe_boundary
from rayft.prefix.build import Builder, Work
from rayft.prefix.compute import from_stored
from rayft.prefix.decide import Decision, decide, measure
from rayft.prefix.recipe import Recipe
from rayft.prefix.store import CacheFolder, Entry
from rayft.runs import RunFolder
from rayft.storage import Storage


@dataclass(frozen=True, eq=False)
class Foreseen:
    """The cache that a run would have.

    Attributes:
        decision: Cached or not, and why.
        missing_bytes: What is still to be written.
        build_s: Seconds to compute it, shared by all workers.
        features: Stands in for the cache in a probe; None where the run reads pictures.
    """

    decision: Decision
    missing_bytes: int = 0
    build_s: float = 0.0
    features: Features | None = None


@dataclass(frozen=True, eq=False)
class _Held:
    """Activations of a few pictures, given for any row: as fast to read as those of all."""

    recipe: Recipe
    values: np.ndarray

    @property
    def stored(self) -> tf.TensorSpec:
        """Shape and dtype of one example in memory."""
        return tf.TensorSpec(self.values.shape[1:], self.values.dtype)

    def take(self, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray:
        """Return as many activations as there are rows."""
        return self.values[rows % len(self.values)]

    def decode(self, values: tf.Tensor) -> tf.Tensor:
        """Return stored numbers in the dtype that their recipe names."""
        return from_stored(values, self.recipe.dtype)


def foresee_prefix(config: RunConfig, dataset: Dataset, network: Network) -> Foreseen:
    """Decide as the run will, and compute the activations of a few pictures.

    Args:
        config: The run, without ``auto``.
        dataset: Its examples.
        network: In its first phase.

    Raises:
        ConfigError: ``prefix_cache.mode`` is on, and there can be no cache.
        StorageError: The disk has no room, or cannot be written.
    """
    if len(network.phases) > 1:
        return Foreseen(Decision(False, "several freeze depths"))
    if config.train.distill is not None:
        return Foreseen(Decision(False, "a teacher needs the pictures"))
    folder = CacheFolder.of(config.storage)
    boundary = describe_boundary(config, dataset, network, network.frozen_depth)
    builder = Builder(config, dataset, network)
    # The probe of the disk makes the folder of the cache.
    with Storage.open(folder.local).leaving_no_folders():
        decision = _kept(config) or decide(config, dataset, boundary, folder, builder, config.train.epochs)
        if not decision.used:
            return Foreseen(decision)
        missing = [part for part in boundary.parts if not Entry(folder, part.recipe).committed()]
        build_s = 0.0
        if missing:
            probe = measure(builder, boundary, folder)
            pictures = sum(len(part.rows) for part in missing)
            build_s = pictures * (probe.decode_s + probe.prefix_s + probe.write_s) / config.cluster.workers
        held = _held(boundary, builder, folder)
    return Foreseen(decision, sum(part.recipe.num_bytes for part in missing), build_s, held)


def _kept(config: RunConfig) -> Decision | None:
    """The decision of a run that goes on."""
    where = RunFolder.of(config).storage / "prefix_cache.json"
    return Decision(**json.loads(where.read_bytes())) if where.exists() else None


def _held(boundary: Boundary, builder: Builder, folder: CacheFolder) -> _Held:
    part = boundary.parts[0]
    compute = builder.compute([Work(boundary.tensor, part, Entry(folder, part.recipe))])
    image = next(iter(builder.pictures(part, [0])))["image"]
    return _Held(part.recipe, compute(image)[0])
