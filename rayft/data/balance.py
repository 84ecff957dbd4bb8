"""What evens out classes of different size: sampling, and weights of the loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from rayft.config import RunConfig
from rayft.data.order import Order, epoch_order, generator
from rayft.data.target import Targets
from rayft.errors import ConfigError

_BALANCED_STREAM = 1


def make_order(config: RunConfig, targets: Targets) -> Callable[[int], Order]:
    """Return the function from an epoch to its order, as ``data.sampling`` says."""
    if config.data.sampling == "uniform":
        return lambda epoch: Order(epoch_order(len(targets), config.seed, epoch), None)
    groups = class_members(targets)
    return functools.lru_cache(maxsize=2)(lambda epoch: balanced_order(groups, len(targets), config.seed, epoch))


def class_members(targets: Targets) -> list[np.ndarray]:
    """Return the examples of each class that has any; those without a class are one of their own."""
    owners = targets.owners()
    groups = [owners[targets.numbers == label] for label in range(targets.classes)]
    groups.append(np.setdiff1d(np.arange(len(targets)), owners))
    return [group for group in groups if len(group)]


def balanced_order(groups: list[np.ndarray], num_examples: int, seed: int, epoch: int) -> Order:
    """Draw an epoch in which every class comes equally often; a pure function of its arguments.

    Each class gets num_examples / classes places; the rest goes to classes chosen by lot. A class fills its
    places with whole permutations of its examples and a part of a last one, so that a small class repeats its
    examples evenly, and of a large one a new part comes each epoch.

    Args:
        groups: Examples of each class.
        num_examples: Places of the epoch.
        seed: The run's seed.
        epoch: From 0.
    """
    draw = generator(seed, epoch, _BALANCED_STREAM)
    places = np.full(len(groups), num_examples // len(groups))
    places[draw.permutation(len(groups))[: num_examples % len(groups)]] += 1
    chosen, repeats = [], []
    for group, count in zip(groups, places.tolist(), strict=True):
        rounds = -(-count // len(group))
        chosen.append(np.concatenate([draw.permutation(group) for _ in range(rounds)] or [group[:0]])[:count])
        repeats.append(np.arange(count) // len(group))
    order = draw.permutation(num_examples)
    return Order(np.concatenate(chosen)[order], np.concatenate(repeats)[order])


def class_weights(config: RunConfig, targets: Targets, labels: tuple[str, ...]) -> np.ndarray | None:
    """Return the factor of each class in the loss, float32 [classes], or None for none.

    ``balanced`` gives n / (classes * count), whose mean over the examples is 1 (King and Zeng 2001). Where
    pictures have several labels, a weight is the factor of a present label against an absent one, and
    ``balanced`` gives absent / present.

    Raises:
        ConfigError: A label is not among the classes.
    """
    wanted = config.train.class_weights
    if wanted == "none":
        return None
    counts = np.maximum(targets.counts(), 1)
    if isinstance(wanted, Mapping):
        unknown = [label for label in wanted if label not in labels]
        if unknown:
            raise ConfigError(
                f"train.class_weights has {unknown[0]!r}; the classes are {', '.join(labels[:20])}.",
                "Name classes of the data; those left out weigh 1.",
            )
        return np.array([wanted.get(label, 1.0) for label in labels], np.float32)
    if targets.offsets is not None:
        return ((len(targets) - counts) / counts).astype(np.float32)
    return (len(targets) / (len(labels) * counts)).astype(np.float32)
