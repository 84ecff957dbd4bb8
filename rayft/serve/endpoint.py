"""An endpoint as the process that starts it sees it: deploy, wait until it is ready, watch, drain, end."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rayft.config import ClusterConfig, ServeConfig
from rayft.distributed.cluster import answers, connect, embedded_resources
from rayft.errors import ClusterError, RunFailed
from rayft.serve.bulletin import Bulletin, error_of
from rayft.serve.declare import APP_NAME
from rayft.serve.engine.source import find_sources
from rayft.serve.keys import check_exposure
from rayft.serve.listen import reserve_port
from rayft.storage import Storage

# Receives an event with its facts: ray, connected, loading, serves, stays, ready, failed.
OnEvent = Callable[[dict[str, Any]], None]
_POLL_S = 0.2
# Asking Serve costs its controller, and this process, some milliseconds of a core that replicas could use.
_STATUS_S = 1.0
# A head that is started anew answers again within so long. Ray itself would wait for a minute in whatever is asked of
# it, and then end this process.
_PATIENCE_S = 20.0
# What a stop takes besides the drain.
_END_S = 20.0


class Deployed:
    """A deployed endpoint.

    Attributes:
        config: With the ports that were taken, and every place absolute.
        models: Name and version of each, once it is ready.
    """

    def __init__(self, config: ServeConfig, bulletin: Bulletin, on_event: OnEvent) -> None:
        self.config = config
        self.models: list[dict[str, Any]] = []
        self._bulletin, self._on_event = bulletin, on_event
        self._ready: set[str] = set()
        self._ask_at = 0.0
        self._answered_at = time.monotonic()

    def wait(self, stopped: Callable[[], bool]) -> bool:
        """Return once every replica is ready, or False once ``stopped`` says so.

        Raises:
            RayftError: A model cannot be served, or an address cannot be bound.
        """
        needed = self.config.replicas if self.config.autoscale is None else self.config.autoscale.min_replicas
        while not stopped():
            for event in self.look():
                if event["event"] == "failed":
                    raise error_of(event)
            if len(self._ready) >= needed:
                return True
            self._require_life()
            time.sleep(_POLL_S)
        return False

    def look(self) -> list[dict[str, Any]]:
        """Pass on what replicas have said since the last look, and return it."""
        events = self._bulletin.read()
        for event in events:
            if event["event"] == "ready":
                self._ready.add(event["replica"])
                self.models = event["models"]
            self._on_event(event)
        return events

    def run(self, stopped: Callable[[], bool]) -> None:
        """Pass events on until ``stopped`` says so.

        Raises:
            RunFailed: Ray Serve has given up, or the cluster is gone.
        """
        while not stopped():
            if time.monotonic() >= self._ask_at and self._cluster_answers():
                self.look()
                self._require_life()
            time.sleep(_POLL_S)

    @property
    def url(self) -> str:
        """Where HTTP answers."""
        return f"{'https' if self.config.tls else 'http'}://{_in_url(self.config.host)}:{self.config.port}"

    @property
    def grpc_address(self) -> str | None:
        """Where gRPC answers."""
        return None if self.config.grpc_port is None else f"{_in_url(self.config.host)}:{self.config.grpc_port}"

    def _cluster_answers(self) -> bool:
        """Whether a standing cluster may be asked now."""
        now = time.monotonic()
        if answers(self.config.address):
            self._answered_at = now
            return True
        if now - self._answered_at > _PATIENCE_S:
            raise RunFailed(
                f"The Ray cluster at {self.config.address} has not answered for {_PATIENCE_S:.0f} s.",
                "See whether its head runs, and start the endpoint again.",
            )
        return False

    def _require_life(self) -> None:
        if time.monotonic() < self._ask_at:
            return
        from ray import serve

        self._ask_at = time.monotonic() + _STATUS_S
        application = serve.status().applications.get(APP_NAME)
        if application is not None and application.status in ("DEPLOY_FAILED", "DELETING"):
            for event in self._bulletin.read():
                if event["event"] == "failed":
                    raise error_of(event)
            lines = application.message.strip().splitlines() or ["no reason is given"]
            raise RunFailed(f"The endpoint failed: {lines[-1]}", "See the logs in the folder of Ray's session.")


@contextlib.contextmanager
def deployed(config: ServeConfig, on_event: OnEvent = lambda event: None) -> Iterator[Deployed]:
    """Deploy an endpoint for the length of a block, then drain and end it.

    Raises:
        RayftError: A setting, a model, the cluster or the address is not fit for it.
    """
    config = absolute(config)
    check_exposure(config.host, None if config.keys is None else Path(config.keys))
    # A name that does not exist is found before Ray starts.
    find_sources(config.models, config.registry)
    with contextlib.ExitStack() as stack:
        if config.address is None:
            config = stack.enter_context(_ports_taken(_with_cpus(config)))
        on_event({"event": "ray"})
        stack.enter_context(connect(ClusterConfig(address=config.address, cpus_per_worker=0.01)))
        on_event({"event": "connected"})
        # Not before: its import settles that this process has no token, while an embedded Ray asks for one.
        import ray
        from ray import serve

        from rayft.serve.app import build

        topic = uuid.uuid4().hex
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        # Nothing is bound but what the replicas bind.
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        if config.address is not None and APP_NAME in serve.status().applications:
            raise ClusterError(
                f"The cluster at {config.address} has an endpoint already.", "Stop it first, with `serve shutdown`."
            )
        stack.callback(_end, config)
        # An embedded Ray ends with this process in any case.
        job = None if config.address is None else ray.get_runtime_context().get_job_id()
        application = build({**config.model_dump(mode="json"), "topic": topic, "job": job})
        target = serve.RunTarget(application, name=APP_NAME, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)
        yield Deployed(config, Bulletin(topic), on_event)


def _end(config: ServeConfig) -> None:
    """Take the endpoint away, once its replicas have drained; Serve as well where nothing else is on a cluster."""
    if not answers(config.address):
        return
    from ray import serve

    serve.delete(APP_NAME, _blocking=False)
    end = time.monotonic() + config.limits.drain_s + _END_S
    while APP_NAME in serve.status().applications and time.monotonic() < end:
        time.sleep(_POLL_S)
    # An embedded Ray takes Serve with it.
    if config.address is not None and not serve.status().applications:
        serve.shutdown()


def absolute(config: ServeConfig) -> ServeConfig:
    """Return it with places that mean the same in other working directories."""
    from rayft.registry.locate import absolute_place

    models = tuple(absolute_place(model) for model in config.models)
    registry = None if config.registry is None else Storage.open(config.registry).uri
    if registry is None and any(model == given for model, given in zip(models, config.models, strict=True)):
        registry = Storage.open("./registry").uri
    tls = config.tls and config.tls.model_copy(update=_absolute_files(config.tls.model_dump()))
    files = _absolute_files({"keys": config.keys, "access_log": config.access_log})
    return config.model_copy(update={"models": models, "registry": registry, "tls": tls, **files})


def _absolute_files(paths: dict[str, str | None]) -> dict[str, str | None]:
    return {name: path and str(Path(path).absolute()) for name, path in paths.items()}


def _with_cpus(config: ServeConfig) -> ServeConfig:
    """Settle the CPUs of a replica on this machine.

    Raises:
        ClusterError: It cannot hold so many replicas.
    """
    there, count = embedded_resources(), config.max_replicas
    if config.cpus_per_replica is None:
        config = config.model_copy(update={"cpus_per_replica": max(0.1, there["CPU"] / count)})
    for name, each in (("CPU", config.cpus_per_replica or 0.0), ("GPU", config.gpus_per_replica)):
        if each * count > there[name] + 1e-6:
            raise ClusterError(
                f"{count} replicas x {each:g} {name} are {each * count:g}; this machine has {there[name]:g}.",
                f"Lower the number of replicas, or {name.lower()}s_per_replica.",
            )
    return config


@contextlib.contextmanager
def _ports_taken(config: ServeConfig) -> Iterator[ServeConfig]:
    """Keep the ports for the replicas of this machine; yields the config with their numbers.

    Raises:
        ConfigError: One is in use, or the address is none of this machine's.
    """
    with contextlib.ExitStack() as stack:
        update: dict[str, int] = {}
        for field in ("port", "grpc_port"):
            if (port := getattr(config, field)) is not None:
                kept = stack.enter_context(reserve_port(config.host, port))
                update[field] = kept.getsockname()[1]
        yield config.model_copy(update=update)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
