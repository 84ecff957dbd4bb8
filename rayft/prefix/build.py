"""The pass over the pictures that computes what a cache lacks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.row_batches import row_batches
from rayft.errors import StorageError
from rayft.model.network import Network
from rayft.prefix.boundary import Part
from rayft.prefix.compute import Compute, compile_prefix
from rayft.prefix.recipe import BATCH_ROWS, shard_rows
from rayft.prefix.shards import ShardWriter
from rayft.prefix.store import Entry, Notice

_POLL_S = 0.5
# A builder that shows nothing for so long, and for three times what a shard takes here, is taken for dead.
_PATIENCE_S = 30.0


@dataclass(frozen=True, eq=False)
class Work:
    """One boundary of one set of pictures.

    Attributes:
        tensor: KerasTensor of the network.
        part: What its cache holds.
        entry: The cache.
    """

    tensor: Any
    part: Part
    entry: Entry


class Builder:
    """Computes boundaries of one network; compiles once for all views."""

    def __init__(self, config: RunConfig, dataset: Dataset, network: Network) -> None:
        """Take the network; nothing is compiled yet."""
        self._config, self._dataset, self._network = config, dataset, network
        self._threads = max(1, int(config.cluster.cpus_per_worker))
        self._compiled: dict[tuple[Any, ...], Compute] = {}

    def compute(self, work: Sequence[Work], engine: str | None = None) -> Compute:
        """Return the compiled prefix with an output for each boundary, by the engine of their caches or another."""
        engine = engine or work[0].part.recipe.engine
        wanted = (engine, *(id(each.tensor) for each in work))
        if wanted not in self._compiled:
            tensors, dtypes = [each.tensor for each in work], [each.part.recipe.dtype for each in work]
            self._compiled[wanted] = compile_prefix(
                self._network.model, tensors, dtypes, engine=engine, threads=self._threads
            )
        return self._compiled[wanted]

    def pictures(self, part: Part, numbers: Iterable[int]) -> tf.data.Dataset:
        """Return the batches of a part's pictures with the given numbers."""

        def generate() -> Iterator[int]:
            yield from numbers

        return row_batches(
            self._dataset,
            self._config,
            self._network.image_size,
            part.rows,
            tf.data.Dataset.from_generator(generate, output_signature=tf.TensorSpec([], tf.int64)),
            batch_size=BATCH_ROWS,
            view=part.view,
            threads=self._threads,
        )

    def run(self, work: Sequence[Work], shards: Iterable[int], done: Callable[[int], None]) -> float:
        """Compute and publish shards, those left out that are there by the time their turn comes.

        Args:
            work: Boundaries of the same pictures.
            shards: Numbers of the shards, in the order to take.
            done: Called with the number of pictures after every batch.

        Returns:
            Seconds that the slowest shard took.
        """
        compute, rows = self.compute(work), work[0].part.rows
        entries = [each.entry for each in work]
        per_shard = shard_rows(len(rows)) // BATCH_ROWS
        num_batches = -(-len(rows) // BATCH_ROWS)

        def numbers() -> Iterator[int]:
            for shard in shards:
                if any(shard not in entry.shards() for entry in entries):
                    yield from range(shard * per_shard, min((shard + 1) * per_shard, num_batches))

        writers: list[ShardWriter] = []
        slowest, started = 0.0, time.perf_counter()
        try:
            for batch in self.pictures(work[0].part, numbers()):
                number = int(batch["batch"])
                if not writers:
                    shard, started = number // per_shard, time.perf_counter()
                    for entry in entries:
                        writers.append(ShardWriter(entry.local, entry.recipe, shard))
                own = rows[number * BATCH_ROWS : (number + 1) * BATCH_ROWS]
                for writer, output in zip(writers, compute(batch["image"]), strict=True):
                    writer.add(own, output[: len(own)])
                done(len(own))
                if (number + 1) % per_shard == 0 or number + 1 == num_batches:
                    for entry, writer in zip(entries, writers, strict=True):
                        entry.publish(writer.finish())
                    writers = []
                    slowest = max(slowest, time.perf_counter() - started)
        finally:
            for writer in writers:
                writer.abandon()
        return slowest


def build_entries(
    builder: Builder,
    work: Sequence[Work],
    share: tuple[int, int],
    *,
    notice: Notice,
    done: Callable[[int, int], None],
    alive: Callable[[], None],
) -> None:
    """Bring the caches of one set of pictures to completion, together with whoever else builds them.

    Args:
        builder: Of the network.
        work: The boundaries; each cache under a lease.
        share: Number of this process among the builders, and their count.
        notice: Takes sentences about damaged shards.
        done: Called with the pictures computed here and those of this process's share.
        alive: Called whenever something was got done, or another builder was waited for.

    Raises:
        StorageError: The folder cannot be written, or what was written comes back damaged.
    """
    work = [each for each in work if each.entry.check(notice) is None]
    if not work:
        return
    for each in work:
        each.entry.check_unfinished(notice)
    recipe = work[0].part.recipe
    mine = _own_shards(recipe.num_shards, share)
    mine_rows = min(len(mine) * shard_rows(recipe.num_rows), recipe.num_rows)
    counted = 0

    def count(pictures: int) -> None:
        nonlocal counted
        counted += pictures
        alive()
        done(counted, mine_rows)

    slowest = builder.run(work, mine, count)
    _wait_for_others(builder, work, max(_PATIENCE_S, 3 * slowest), count, alive)
    for each in work:
        each.entry.commit()
        if each.entry.check(notice) is None:
            raise StorageError(
                f"The prefix cache {each.entry.shared.uri} came back damaged right after it was written.",
                "Check the disk, or train without it: --set prefix_cache=off.",
            )


def _own_shards(num_shards: int, share: tuple[int, int]) -> list[int]:
    """Every n-th shard, from a random one on: two runs that build the same cache then help each other."""
    own = list(range(share[0], num_shards, share[1]))
    start = uuid.uuid4().int % max(1, len(own))
    return own[start:] + own[:start]


def _wait_for_others(
    builder: Builder,
    work: Sequence[Work],
    patience_s: float,
    count: Callable[[int], None],
    alive: Callable[[], None],
) -> None:
    """Return when every shard is there; those of a builder that seems dead are computed here."""
    known, since = -1, time.monotonic()
    while missing := sorted({shard for each in work for shard in each.entry.missing()}):
        if len(missing) != known:
            known, since = len(missing), time.monotonic()
        elif time.monotonic() - since > patience_s:
            builder.run(work, missing[:1], count)
        alive()
        time.sleep(_POLL_S)
