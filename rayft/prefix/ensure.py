"""The cache of one or several freeze depths, there when the call returns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.errors import StorageError
from rayft.model.freeze import resolve_depth
from rayft.model.network import Network, build_network
from rayft.prefix.boundary import Boundary, describe_boundary
from rayft.prefix.build import Builder, Work, build_entries
from rayft.prefix.cached import Cached
from rayft.prefix.decide import decide
from rayft.prefix.evict import prune_caches
from rayft.prefix.lease import Lease
from rayft.prefix.shards import Activations
from rayft.prefix.store import CacheFolder, Entry, Notice

Tell = Callable[[dict[str, Any]], object]


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
        missing: How many of them had to be computed.
    """

    depth: int | float | str
    used: bool
    reason: str
    build_s: float
    bytes: int
    keys: tuple[str, ...]
    missing: int = 0


def ensure_cache(
    config: RunConfig,
    dataset: Dataset,
    depths: Sequence[int | float | str] = (),
    *,
    passes: float | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[dict[str, Any]], None] = lambda state: None,
    alive: Callable[[], None] = lambda: None,
    build: Callable[[RunConfig, int], Network] = build_network,
) -> list[Ensured]:
    """Compute the activations at the boundaries of several freeze depths in one pass, where they are missing.

    A run whose config agrees in data, model, precision and augmentation then finds them by their key, whatever
    its learning rate, head, batch size or number of workers; nothing needs to be handed to it. Those on GPUs have
    caches of their own.

    Several processes, on one machine or many, may call this at once with shares (0, n) .. (n-1, n): each
    computes its part, and every call returns when the whole is there. They need no collective; if one of
    them dies, the others take over its part. Without Ray, and outside of any strategy's scope.

    Args:
        config: A run; ``prefix_cache.mode`` auto asks the cost model if one process builds one depth, and
            else takes every depth that fits ``prefix_cache.max_bytes``; on takes them all; off returns at once.
        dataset: Its examples, of all splits.
        depths: Values of ``freeze.depth``; the config's own where none is given.
        passes: Times that an example will be read, for the cost model: epochs x trials; the config's
            epochs where not given.
        share: Number of this process among those that build, and their count.
        progress: Called with ``phase`` and, while building, ``share`` in 0..1; a sentence about a damaged shard
            comes as ``notice``.
        alive: Called whenever something was got done, for a watchdog.
        build: Gives the network of a config and number of classes.

    Returns:
        One for each depth, in the order given. A depth that cannot be cached (nothing frozen, several
        tensors at the boundary, new augmentation in every epoch) has ``used`` false and says why.

    Raises:
        ConfigError: ``prefix_cache.mode`` is on, and a depth cannot be cached.
        StorageError: The cache cannot be written; names the folder.
        DataError: A picture cannot be decoded.
    """
    # With all blocks frozen, every boundary of interest lies inside the frozen part.
    frozen = config.model_copy(update={"freeze": config.freeze.model_copy(update={"depth": "all"})})
    depths = list(depths) or [config.freeze.depth]
    if config.prefix_cache.mode == "off":
        return [Ensured(depth, False, "prefix_cache.mode is off", 0.0, 0, ()) for depth in depths]
    network = build(frozen, len(dataset.labels))
    folder = CacheFolder.of(config.storage)
    boundaries = [describe_boundary(config, dataset, network, resolve_depth(depth, network.blocks)) for depth in depths]
    builder = Builder(config, dataset, network)
    weighing = builder if len(depths) == 1 and share == (0, 1) else None
    times = config.train.epochs if passes is None else passes
    decisions = [decide(config, dataset, boundary, folder, weighing, times) for boundary in boundaries]
    used = [boundary for boundary, decision in zip(boundaries, decisions, strict=True) if decision.used]
    build_s, missing = 0.0, frozenset[str]()
    if used:
        with contextlib.closing(
            open_caches(config, dataset, used, folder, builder, share=share, tell=progress, alive=alive)
        ) as opened:
            build_s, missing = opened.build_s, opened.missing
    return [
        Ensured(
            depth=depth,
            used=decision.used,
            reason=decision.reason,
            build_s=build_s if decision.used else 0.0,
            bytes=boundary.num_bytes if decision.used else 0,
            keys=tuple(part.recipe.key for part in boundary.parts),
            missing=sum(part.recipe.key in missing for part in boundary.parts) if decision.used else 0,
        )
        for depth, boundary, decision in zip(depths, boundaries, decisions, strict=True)
    ]


@dataclass
class Opened:
    """Complete caches, kept from eviction until they are closed.

    Attributes:
        caches: One for each boundary.
        build_s: Seconds spent building; 0 where everything was there.
        notices: Sentences about what was found damaged.
        missing: Keys of the caches that had to be computed.
    """

    caches: list[Cached] = field(default_factory=list)
    build_s: float = 0.0
    notices: list[str] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    missing: frozenset[str] = frozenset()

    def close(self) -> None:
        """Let the caches be evicted again."""
        for lease in self.leases:
            lease.release()


def open_caches(
    config: RunConfig,
    dataset: Dataset,
    boundaries: Sequence[Boundary],
    folder: CacheFolder,
    builder: Builder,
    *,
    share: tuple[int, int],
    tell: Tell,
    alive: Callable[[], None],
) -> Opened:
    """Build what is missing of the caches of several boundaries, and map them.

    Args:
        config: The run.
        dataset: Its examples.
        boundaries: Those without an obstacle.
        folder: Where the caches lie.
        builder: Of the network whose boundaries they are.
        share: Number of this process among the builders, and their count.
        tell: Takes the progress.
        alive: Called whenever something was got done.

    Raises:
        StorageError: The cache cannot be written.
    """
    opened = Opened()

    def notice(text: str) -> None:
        opened.notices.append(text)
        tell({"phase": "prefix cache", "notice": text})

    entries = {part.recipe.key: Entry(folder, part.recipe) for boundary in boundaries for part in boundary.parts}
    try:
        for entry in entries.values():
            opened.leases.append(entry.lease())
        opened.missing = frozenset(key for key, entry in entries.items() if entry.check(notice) is None)
        opened.build_s = _build(
            config, boundaries, entries, opened.missing, folder, builder, share, notice, tell, alive
        )
        for boundary in boundaries:
            mapped = [_map(entries[part.recipe.key], part.rows, notice) for part in boundary.parts]
            views = tuple(each for each, part in zip(mapped, boundary.parts, strict=True) if part.view is not None)
            plain = next((each for each, part in zip(mapped, boundary.parts, strict=True) if part.view is None), None)
            opened.caches.append(Cached(views, plain))
    except BaseException:
        opened.close()
        raise
    return opened


def _build(
    config: RunConfig,
    boundaries: Sequence[Boundary],
    entries: dict[str, Entry],
    missing: frozenset[str],
    folder: CacheFolder,
    builder: Builder,
    share: tuple[int, int],
    notice: Notice,
    tell: Tell,
    alive: Callable[[], None],
) -> float:
    """Complete the caches, a pass for each set of pictures; returns the seconds it took, 0 if nothing was missing."""
    started = time.perf_counter()
    lacking = sum(entries[key].recipe.num_bytes for key in missing)
    if not lacking:
        return 0.0
    if share[0] == 0:
        # Room is made first, so that the bound holds at every moment.
        prune_caches(folder, max(0, config.prefix_cache.max_bytes - lacking))
    # Depths given twice, or by several names, are one boundary.
    distinct = {boundary.parts[0].recipe.key: boundary for boundary in boundaries}.values()
    by_engine: dict[str, list[Boundary]] = {}
    for boundary in distinct:
        by_engine.setdefault(boundary.parts[0].recipe.engine, []).append(boundary)
    # A pass for the boundaries that one engine computes, and for each set of pictures.
    passes = [
        [Work(boundary.tensor, part, entries[part.recipe.key]) for boundary, part in zip(alike, parts, strict=True)]
        for alike in by_engine.values()
        for parts in zip(*(boundary.parts for boundary in alike), strict=True)
    ]
    for number, work in enumerate(passes):
        recipe = work[0].part.recipe
        phase = f"computing {recipe.num_rows:,} pictures up to the freeze boundary, once, with {recipe.engine}"

        def done(computed: int, mine: int, number: int = number, phase: str = phase) -> None:
            tell({"phase": phase, "share": (number + computed / max(1, mine)) / len(passes)})

        build_entries(builder, work, share, notice=notice, done=done, alive=alive)
    return time.perf_counter() - started


def _map(entry: Entry, rows: np.ndarray, notice: Notice) -> Activations:
    content = entry.check(notice)
    if content is None:
        raise StorageError(
            f"The prefix cache {entry.shared.uri} was damaged or removed while it was opened.",
            "Run the same command again.",
        )
    return entry.open(rows, content)
