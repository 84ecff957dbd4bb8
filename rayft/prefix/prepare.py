"""What a run does about its frozen prefix before it trains: decide, say so, open the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.model.network import Network
from rayft.observe.caches import tell_of_caches
from rayft.observe.sink import Sink
from rayft.prefix.boundary import Boundary
from rayft.prefix.build import Builder
from rayft.prefix.cached import Cached
from rayft.prefix.decide import Decision, decide
from rayft.prefix.ensure import Opened, Tell, open_caches
from rayft.prefix.store import CacheFolder, Entry
from rayft.runs import RunFolder


@dataclass(frozen=True)
class Prefix:
    """How a run comes by the activations at its freeze boundary.

    Attributes:
        decision: Cached or not, and why.
        opened: The opened cache, or None.
        num_bytes: Size of the cache; 0 without one.
    """

    decision: Decision
    opened: Opened | None
    num_bytes: int

    @property
    def cached(self) -> Cached | None:
        """The cached activations, or None where each step computes the prefix."""
        return self.opened.caches[0] if self.opened else None

    @property
    def notices(self) -> list[str]:
        """Sentences for a person: what was decided and why, what was found damaged."""
        word = "used" if self.decision.used else "not used"
        return [f"prefix cache {word}: {self.decision.reason}", *(self.opened.notices if self.opened else [])]

    def summary(self) -> dict[str, Any]:
        """Return ``prefix_cache`` of result.json."""
        build_s = round(self.opened.build_s, 3) if self.opened else 0.0
        return {**asdict(self.decision), "build_s": build_s, "bytes": self.num_bytes}

    def tell(self, sink: Sink) -> None:
        """Tell what came of the cache: found or computed, and how large it is."""
        sink.event("prefix_cache", **self.summary())
        if self.opened:
            missing = len(self.opened.missing)
            tell_of_caches(sink, len(self.opened.leases) - missing, missing, self.num_bytes, self.opened.build_s)

    def close(self) -> None:
        """Let the cache be evicted again."""
        if self.opened:
            self.opened.close()


def prepare_prefix(
    config: RunConfig,
    dataset: Dataset,
    network: Network,
    boundary: Boundary,
    run: RunFolder,
    *,
    is_trained: bool,
    share: tuple[int, int],
    broadcast: Callable[[Any], Any],
    tell: Tell,
    alive: Callable[[], None],
) -> Prefix:
    """Decide whether a run uses the prefix cache, and open it; all ranks build what is missing.

    A resumed run follows the decision of its beginning: cached and computed activations differ by rounding.

    Args:
        config: The run.
        dataset: Its examples.
        network: Its network.
        boundary: Where it is cut.
        run: Its folder, where the decision is kept.
        is_trained: All its steps were taken before; nothing is built then for the evaluations that are left.
        share: Rank of this process, and number of workers.
        broadcast: Gives every rank the chief's small value; a barrier.
        tell: Takes the progress.
        alive: Called whenever something was got done.

    Raises:
        ConfigError: ``prefix_cache.mode`` is on, and there can be no cache.
        StorageError: The cache cannot be written.
    """
    folder = CacheFolder.of(config.storage)
    builder = Builder(config, dataset, network)
    chosen = _decide(config, dataset, boundary, folder, builder, run, is_trained) if share[0] == 0 else None
    # Barrier: the chief decides, since a probe gives another figure in every process.
    decision: Decision = broadcast(chosen)
    tell({"phase": f"prefix cache {'used' if decision.used else 'not used'}: {decision.reason}"})
    if not decision.used:
        return Prefix(decision, None, 0)
    opened = open_caches(config, dataset, [boundary], folder, builder, share=share, tell=tell, alive=alive)
    return Prefix(decision, opened, boundary.num_bytes)


def _decide(
    config: RunConfig,
    dataset: Dataset,
    boundary: Boundary,
    folder: CacheFolder,
    builder: Builder,
    run: RunFolder,
    is_trained: bool,
) -> Decision:
    if is_trained and not all(Entry(folder, part.recipe).committed() for part in boundary.parts):
        return Decision(False, "all steps were taken before")
    where = run.storage / "prefix_cache.json"
    if where.exists():
        return Decision(**json.loads(where.read_bytes()))
    decision = decide(config, dataset, boundary, folder, builder, config.train.epochs)
    where.write_bytes(json.dumps(asdict(decision)).encode())
    return decision
