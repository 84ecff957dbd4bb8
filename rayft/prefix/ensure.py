"""The cache of one or several freeze depths, there when the call returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rayft.config import RunConfig
from rayft.data.dataset import Dataset


@dataclass(frozen=True)
class Ensured:
    """What came of one depth.

    Attributes:
        depth: As given, a value of ``freeze.depth``.
        used: Whether a run of this depth trains on cached activations.
        reason: Why, or why not, in words.
        build_s: Seconds that this call spent building; 0 where the cache was there.
        bytes: Size of the cache.
        keys: Names of the folders under ``<storage>/cache/prefix/``.
    """

    depth: int | float | str
    used: bool
    reason: str
    build_s: float
    bytes: int
    keys: tuple[str, ...]


def ensure_cache(
    config: RunConfig,
    dataset: Dataset,
    depths: Sequence[int | float | str] = (),
    *,
    passes: float | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[dict[str, Any]], None] = lambda state: None,
    alive: Callable[[], None] = lambda: None,
) -> list[Ensured]:
    """Compute the activations at the boundaries of several freeze depths in one pass, where they are missing.

    A run whose config agrees in data, model, precision and augmentation then finds them by their key, whatever
    its learning rate, head, batch size or number of workers; nothing needs to be handed to it.

    Several processes, on one machine or many, may call this at once with shares (0, n) .. (n-1, n): each
    computes its part, and every call returns when the whole is there. They need no collective; if one of
    them dies, the others take over its part. Without Ray, and outside of any strategy's scope.

    Args:
        config: A run; ``prefix_cache.mode`` auto asks the cost model, on does not, off returns at once.
        dataset: Its examples, of all splits.
        depths: Values of ``freeze.depth``; the config's own where none is given.
        passes: Times that an example will be read, for the cost model: epochs x trials; the config's
            epochs where not given.
        share: Number of this process among those that build, and their count.
        progress: Called with ``phase`` and, while building, ``share`` in 0..1.
        alive: Called whenever something was got done, for a watchdog.

    Returns:
        One for each depth, in the order given. A depth that cannot be cached (nothing frozen, several
        tensors at the boundary, new augmentation in every epoch) has ``used`` false and says why.

    Raises:
        ConfigError: ``prefix_cache.mode`` is on, and a depth cannot be cached.
        StorageError: The cache cannot be written; names the folder.
        DataError: A picture cannot be decoded.
    """
    raise NotImplementedError
