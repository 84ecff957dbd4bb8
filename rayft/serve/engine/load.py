"""An engine with its models, in this process."""

from __future__ import annotations

from collections.abc import Sequence

from rayft.config.serve import BatchingConfig
from rayft.serve.engine.engine import BatchingEngine
from rayft.serve.engine.observe import Observer
from rayft.serve.engine.open import open_source
from rayft.serve.engine.source import find_sources


def load_engine(
    models: Sequence[str],
    registry: str | None = None,
    batching: BatchingConfig | None = None,
    *,
    threads: int = 1,
    observer: Observer | None = None,
) -> BatchingEngine:
    """Load, check and warm models; takes seconds for each.

    Args:
        models: Each a name, name@version or name@alias, or the folder of a package or run.
        registry: Path or URI of the registry; ``./registry`` if not given.
        batching: Bounds of batches and queues.
        threads: Pictures decoded at once.
        observer: Hears of passes, answers and refusals.
    """
    sources = find_sources(models, registry)
    engine = BatchingEngine([source.name for source in sources], batching, threads=threads, observer=observer)
    for source in sources:
        engine.install(*open_source(source))
    return engine
