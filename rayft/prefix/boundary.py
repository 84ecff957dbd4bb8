"""What a run's prefix is, what its cache would hold, and what stands in the way of one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rayft.config import AugmentConfig, RunConfig
from rayft.data.dataset import Dataset
from rayft.imports import load_object
from rayft.model.network import Network, find_boundary
from rayft.prefix.engine import choose_engine
from rayft.prefix.recipe import Recipe, digest_rows

# Named in the config of a layer, yet without influence on what it computes in inference.
_WITHOUT_INFLUENCE = ("trainable", "seed")


@dataclass(frozen=True)
class Part:
    """The activations of one set of pictures: one folder of the cache.

    Attributes:
        recipe: What they are computed from.
        rows: int64 [n], the ascending row ids.
        view: Number of the augmented view; None for the pictures as they are.
    """

    recipe: Recipe
    rows: np.ndarray
    view: int | None


@dataclass(frozen=True, eq=False)
class Boundary:
    """One freeze boundary.

    Attributes:
        tensor: KerasTensor of the network; None where nothing can be cached.
        obstacle: Why nothing can be cached, a clause; empty otherwise.
        parts: What the cache holds, augmented views first.
    """

    tensor: Any | None
    obstacle: str
    parts: tuple[Part, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the whole cache."""
        return sum(part.recipe.num_bytes for part in self.parts)


def describe_boundary(config: RunConfig, dataset: Dataset, network: Network, depth: int) -> Boundary:
    """Look at the boundary behind the first ``depth`` blocks of ``network``, of which at least so many are frozen.

    Args:
        config: The run; its own ``freeze.depth`` does not matter.
        dataset: Its examples.
        network: Built from the config, or from one that differs in a deeper ``freeze.depth`` alone.
        depth: Blocks in front of the boundary.
    """
    tensor = find_boundary(network.model, network.blocks, depth)
    obstacle = _obstacle(config, network, tensor, depth)
    if obstacle:
        return Boundary(None, obstacle, ())
    prefix = keras.Model(network.model.inputs[0], tensor, name="prefix")
    return Boundary(tensor, "", _parts(config, dataset, network, prefix, tensor))


def _obstacle(config: RunConfig, network: Network, tensor: Any | None, depth: int) -> str:
    if config.prefix_cache.mode == "off":
        return "prefix_cache.mode is off"
    if depth == 0:
        return "no block is frozen"
    if tensor is None:
        return "data crosses the freeze boundary in several tensors"
    prefix = keras.Model(network.model.inputs[0], tensor)
    if prefix.trainable_variables:
        return f"{prefix.trainable_variables[0].path} in front of the freeze boundary is trained"
    if config.train.step and not getattr(load_object(config.train.step, "train.step"), "uses_prefix", False):
        return (
            f"the own step {config.train.step} may read batch['image']; one that calls task.logits(batch) "
            "says so by the attribute uses_prefix = True"
        )
    if config.evaluate.tta.is_on:
        return "evaluate.tta answers views of the pictures, which no cache holds"
    if config.data.augment.mixes:
        return "data.augment mixes each picture with another one in every step"
    if config.data.augment != AugmentConfig() and config.prefix_cache.views is None:
        return "data.augment draws new pictures in every epoch; prefix_cache.views would draw a fixed number"
    return ""


def _parts(config: RunConfig, dataset: Dataset, network: Network, prefix: keras.Model, tensor: Any) -> tuple[Part, ...]:
    fixed = {
        "prefix": digest_prefix(prefix),
        "cut": tensor._keras_history.operation.name,
        "preprocessing": {
            "image_size": list(network.image_size),
            "channels": config.data.channels,
            "resize": "bilinear, antialiased, aspect not kept",
        },
        "shape": tuple(tensor.shape[1:]),
        "dtype": "bfloat16" if config.prefix_cache.dtype == "bfloat16" else str(tensor.dtype),
        "dataset": dataset.fingerprint,
        "precision": config.train.precision,
        "engine": choose_engine(prefix, config.prefix_cache.engine),
    }

    def part(rows: np.ndarray, view: int | None) -> Part:
        rows = np.unique(rows)
        seen = {"seed": config.seed, "number": view, "augment": config.data.augment.model_dump(mode="json")}
        recipe = Recipe(**fixed, rows=digest_rows(rows), num_rows=len(rows), view=None if view is None else seen)
        return Part(recipe, rows, view)

    if config.data.augment == AugmentConfig():
        # All splits in one, so that runs with other splits of the same data, or a sweep's trials, find it.
        return (part(dataset.pictures, None),)
    train = dataset.split("train")["row"].to_numpy()
    views = [part(train, view) for view in range(min(config.prefix_cache.views or 1, config.train.epochs))]
    others = np.setdiff1d(dataset.pictures, train)
    return (*views, part(others, None)) if len(others) else tuple(views)


def digest_prefix(prefix: keras.Model) -> str:
    """Return the hex SHA-256 over what a frozen model computes: its layers, their connections and weights."""
    total = hashlib.sha256()
    total.update(json.dumps(_influential(prefix.get_config()), sort_keys=True, default=str).encode())
    total.update(json.dumps([keras.__version__, tf.__version__]).encode())
    for variable in prefix.weights:
        total.update(np.ascontiguousarray(np.asarray(variable)).tobytes())
    return total.hexdigest()


def _influential(config: Any) -> Any:
    if isinstance(config, dict):
        return {
            key: _influential(value)
            for key, value in config.items()
            # Where weights came from does not matter beside what they are.
            if key not in _WITHOUT_INFLUENCE and not key.endswith(("_initializer", "_regularizer", "_constraint"))
        }
    if isinstance(config, (list, tuple)):
        return [_influential(value) for value in config]
    return config
