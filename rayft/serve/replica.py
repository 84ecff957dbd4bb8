"""One replica of an endpoint: its engine, its watch of the registry, its listeners."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rayft.config import ServeConfig
from rayft.distributed.devices import DevicePlan, set_up_tensorflow
from rayft.errors import ConfigError
from rayft.serve.contract import ServedModel
from rayft.serve.engine.share import passes_at_once, threads_of_a_pass

if TYPE_CHECKING:
    from rayft.serve.engine.engine import BatchingEngine
    from rayft.serve.engine.metrics import Metrics
    from rayft.serve.engine.watch import Watch
    from rayft.serve.listen import Listeners, ListenSettings

Say = Callable[..., None]


class Replica:
    """Everything that answers, in one process.

    Args:
        config: The endpoint.
        metrics_folder: Shared by all replicas of a machine.
        say: Called with an event and its facts.
    """

    def __init__(self, config: ServeConfig, metrics_folder: Path, say: Say) -> None:
        self._config, self._metrics_folder, self._say = config, metrics_folder, say
        self._engine: BatchingEngine | None = None
        self._watch: Watch | None = None
        self._listeners: Listeners | None = None

    @property
    def held(self) -> int:
        """Pictures that are not answered yet."""
        return self._engine.in_flight if self._engine is not None else 0

    async def start(self) -> None:
        """Load and warm every model in a thread, then listen.

        Raises:
            RayftError: A model cannot be served, or the address cannot be bound.
        """
        started = time.monotonic()
        if self._config.access_log is not None:
            _log_requests(Path(self._config.access_log))
        engine, watch, metrics = await asyncio.to_thread(self._load)
        self._engine, self._watch = engine, watch
        from rayft.serve.access_log import count_responses
        from rayft.serve.listen import start_listening

        count_responses(metrics.responded)

        self._listeners = await start_listening(engine, listen_settings(self._config), metrics=metrics.expose)
        watch.start()
        models = [{"name": model.name, "version": model.version} for model in engine.models()]
        self._say("ready", models=models, seconds=round(time.monotonic() - started, 2))

    def check(self) -> None:
        """Raise where only a new process helps."""
        if self._engine is not None and self._engine.broken:
            raise RuntimeError("Passes of the network keep failing; see the log of the replica.")

    async def stop(self) -> None:
        """Take no more requests, answer those that are here, and end."""
        if self._watch is not None:
            await asyncio.to_thread(self._watch.stop)
        if self._listeners is not None:
            await self._listeners.stop()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    def _load(self) -> tuple[BatchingEngine, Watch, Metrics]:
        config = self._config
        self._say("loading", models=", ".join(config.models))
        set_up_tensorflow(plan_replica(config))
        from rayft.serve.engine.metrics import Metrics, prepare

        prepare(self._metrics_folder)
        metrics = Metrics()
        from rayft.serve.engine.engine import BatchingEngine
        from rayft.serve.engine.source import find_sources
        from rayft.serve.engine.watch import Watch

        sources = find_sources(config.models, config.registry)
        names = [source.name for source in sources]
        engine = BatchingEngine(names, config.batching, threads=_whole_cpus(config), observer=metrics)
        watch = Watch(engine, sources, _Told(metrics, self._say), config.poll_s)
        watch.load_all()
        return engine, watch, metrics


def plan_replica(config: ServeConfig) -> DevicePlan:
    """Decide the threads of TensorFlow in a replica."""
    cpus, on_gpu = _whole_cpus(config), config.gpus_per_replica > 0
    passes = passes_at_once(cpus, on_gpu=on_gpu, asked=config.batching.passes)
    # Besides the passes, as many pictures may be decoded as there are CPUs, and a new version be tried.
    return DevicePlan(threads_of_a_pass(cpus, passes), passes + cpus + 1, "RING", on_gpu)


def _whole_cpus(config: ServeConfig) -> int:
    return max(1, math.floor(config.cpus_per_replica or 1))


def _log_requests(path: Path) -> None:
    """Append the access log to a file that replicas share, and that may be moved away and made anew."""
    try:
        handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"Cannot write the access log {str(path)!r}: {error.strerror}.", "Give another place."
        ) from None
    from rayft.serve.access_log import LOGGER

    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def listen_settings(config: ServeConfig) -> ListenSettings:
    """Return where a replica of an endpoint listens, and for whom."""
    from rayft.serve.limits import Limits
    from rayft.serve.listen import ListenSettings
    from rayft.serve.tls import TlsFiles

    given = config.limits
    return ListenSettings(
        host=config.host,
        port=config.port,
        grpc_port=config.grpc_port,
        keys=None if config.keys is None else Path(config.keys),
        tls=None
        if (tls := config.tls) is None
        else TlsFiles(Path(tls.cert), Path(tls.key), None if tls.client_ca is None else Path(tls.client_ca)),
        limits=Limits(
            deadline_s=given.deadline_s,
            max_body_bytes=int(given.max_body_mb * 1e6),
            max_pictures=given.max_pictures,
            slow_client_s=given.slow_client_s,
            max_connections=given.max_connections,
            drain_s=given.drain_s,
        ),
    )


class _Told:
    """Passes swaps on to the metrics, and to whoever started the endpoint."""

    def __init__(self, metrics: Metrics, say: Say) -> None:
        self._metrics, self._say = metrics, say

    def swapped(self, before: ServedModel | None, after: ServedModel) -> None:
        self._metrics.swapped(before, after)
        version = None if before is None else before.version
        self._say("serves", name=after.name, version=after.version, before=version)

    def swap_failed(self, model: str, problem: str) -> None:
        self._metrics.swap_failed(model, problem)
        self._say("stays", name=model, problem=problem)
