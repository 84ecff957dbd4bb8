"""From a command to a job: what is checked before, what is sent, what is done with an earlier job of the run."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rayft
from rayft.capacity import check_nodes
from rayft.config import RunConfig, dump_config
from rayft.credentials import ADVICE, has_password, token_required, without_password
from rayft.errors import ClusterError, ConfigError, RunFailed
from rayft.jobs.bundle import CONFIG_FILE, add_own_code, add_rayft, write_config
from rayft.jobs.environment import Kind, extras_of, runtime_environment
from rayft.jobs.job import Job, latest, metadata, submission_id
from rayft.jobs.reach import check_places, is_here, places_among, places_of

if TYPE_CHECKING:
    from rayft.distributed.job_client import Cluster, Node

# A distributed checkpoint of a large network; Ray's own 3 s are for none.
STOP_WITHIN_S = 600


@dataclass(frozen=True)
class Request:
    """A command that shall run on a cluster.

    Attributes:
        task: train, sweep, evaluate, predict or serve.
        words: Arguments of the command; after the config, where there is one.
        config: Of train and sweep.
        name: Of the run; that of the config if not given.
        fresh: Start anew, whatever an earlier run of this name left.
        environment: Where packages come from.
        python: Interpreter of the job; the cluster's own if not given.
        driver_cpus: Reserved for the command itself, besides its workers.
        stop_within_s: How long it may take to leave a checkpoint when it is stopped.
    """

    task: str
    words: Sequence[str] = ()
    config: RunConfig | None = None
    name: str | None = None
    fresh: bool = False
    environment: Kind = "image"
    python: str | None = None
    driver_cpus: float = 0.0
    stop_within_s: int = STOP_WITHIN_S

    def __post_init__(self) -> None:
        """Refuse what only an embedded Ray has.

        Raises:
            ConfigError: The config gives a port for metrics, which the cluster's nodes have already.
        """
        if self.config is not None and (port := self.config.track.metrics_port) is not None:
            raise ConfigError(
                f"track.metrics_port is {port}; a job runs on a cluster, whose nodes have ports of their own "
                "(ray start --metrics-export-port).",
                "Leave it out: --set track.metrics_port=null",
            )

    @property
    def run(self) -> str:
        """Name of the run."""
        if self.name is not None:
            return self.name
        if self.config is not None:
            return self.config.name
        model = next(iter(self.words), "")
        return f"{self.task}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', model).strip('-.')[-60:]}"

    @property
    def settings(self) -> str:
        """Digest of all that decides what comes out."""
        text = "\0".join([self.task, dump_config(self.config) if self.config else "", *self.words])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Submitted:
    """What came of a request.

    Attributes:
        job: The job of the run.
        news: submitted, resumed; or running, finished where it was there already.
        remarks: What the user should know.
    """

    job: Job
    news: Literal["submitted", "resumed", "running", "finished"]
    remarks: list[str] = field(default_factory=list)


def submit(cluster: Cluster, request: Request) -> Submitted:
    """Send a command to a cluster as a job, once for each name of a run.

    Raises:
        ConfigError: Config, code or places are not fit for the cluster; or the name runs with other settings.
        ClusterError: The cluster cannot be reached, or could never hold the workers.
    """
    _check_closed(cluster)
    previous = latest(cluster.jobs(), request.run)
    if (news := _standing(previous, request)) is not None:
        assert previous is not None
        return Submitted(previous, news)
    nodes = cluster.nodes()
    _check_room(request, nodes)
    here = is_here(node.host for node in nodes)
    remarks = _check_reach(request, here=here)
    attempt = previous.attempt + 1 if previous else 1
    with tempfile.TemporaryDirectory(prefix="rayft-job-") as place:
        folder = Path(place)
        _fill(request, folder)
        environment = runtime_environment(
            request.environment,
            folder,
            extras=extras_of(request.config) if request.config else ["demo"],
            stop_within_s=request.stop_within_s,
        )
        identity = submission_id(request.run, attempt)
        try:
            cluster.submit_job(
                entrypoint=entry_point(request, python=_python(request, nodes), folder=os.getcwd() if here else None),
                submission_id=identity,
                runtime_env=environment,
                metadata=metadata(request.run, request.task, _facts(request, here=here)),
                entrypoint_num_cpus=request.driver_cpus or None,
            )
        except RunFailed as error:
            # Somebody else was faster with the same name; Ray answers 500 for it.
            if "already exists" not in str(error):
                raise
            there = cluster.job(request.run)
            return Submitted(there, _standing(there, request) or "running")
    goes_on = previous is not None and request.config is not None and not request.fresh
    return Submitted(cluster.attempt(identity), "resumed" if goes_on else "submitted", remarks)


def entry_point(request: Request, *, python: str, folder: str | None) -> str:
    """Return the shell's line of a job.

    Args:
        request: The command.
        python: Its interpreter.
        folder: Working directory of the client, where the cluster is on this machine; relative paths mean there what
            they mean here.
    """
    words = list(request.words)
    if request.task == "predict" and "--cluster" not in words:
        words += ["--cluster", "auto"]
    if request.task == "serve" and "--address" not in words:
        words += ["--address", "auto"]
    if request.fresh and request.config is not None:
        words.append("--fresh")
    command = [shlex.join([python, "-m", "rayft", request.task])]
    steps = [f"cd {shlex.quote(folder)}"] if folder else []
    if request.config is not None:
        command.append('"$config"')
        steps.insert(0, f'config="$PWD/{CONFIG_FILE}"')
    if words:
        command.append(shlex.join(words))
    # The shell is replaced, so that a signal reaches the command alone.
    return " && ".join([*steps, f"exec {' '.join(command)}"])


def _standing(previous: Job | None, request: Request) -> Literal["running", "finished"] | None:
    """Whether there is nothing to do, since the run is there already."""
    if previous is None:
        return None
    same = previous.facts.get("settings") == request.settings
    if not previous.is_over:
        if same and not request.fresh:
            return "running"
        raise ConfigError(
            f"The run {request.run!r} is {previous.in_words} as job {previous.id}"
            f"{'' if same else ', with other settings'}.",
            f"Stop it first (`rayft jobs stop {request.run}`), or give this one another name.",
        )
    return "finished" if previous.state == "SUCCEEDED" and same and not request.fresh else None


def _check_closed(cluster: Cluster) -> None:
    if token_required() and not cluster.asks_for_a_token():
        raise ClusterError(
            f"The cluster at {cluster.url} asks for no token: whoever reaches it runs code there.",
            "Start it with RAY_AUTH_MODE=token (docs/jobs.md), or set RAY_AUTH_MODE=disabled here to use it as it is.",
        )


def _check_room(request: Request, nodes: Sequence[Node]) -> None:
    """Refuse what the nodes could never hold."""
    if request.config is not None:
        check_nodes(request.config.cluster, [node.resources for node in nodes])
    most = max((node.resources.get("CPU", 0.0) for node in nodes), default=0.0)
    if request.driver_cpus > most:
        raise ClusterError(f"--driver-cpus is {request.driver_cpus:g}; the largest node has {most:g} CPU.", "Lower it.")


def _check_reach(request: Request, *, here: bool) -> list[str]:
    for word in request.words:
        if has_password(word):
            raise ConfigError(f"The argument {without_password(word)!r} holds a password.", ADVICE)
    if here:
        return []
    if request.config is not None:
        return check_places(places_of(request.config))
    return check_places(places_among(request.words))


def _fill(request: Request, folder: Path) -> None:
    if request.config is not None:
        write_config(request.config, folder)
        add_own_code(request.config, folder)
    if request.environment != "image":
        add_rayft(folder)


def _python(request: Request, nodes: Sequence[Node]) -> str:
    if request.python is not None:
        return request.python
    if request.environment != "image":
        # Ray has put the virtual environment in front of PATH.
        return "python"
    head = next((node for node in nodes if node.is_head), None)
    # PATH of a head node need not lead to the interpreter that runs Ray there.
    return (head.python if head else None) or f"python{sys.version_info.major}.{sys.version_info.minor}"


def _facts(request: Request, *, here: bool) -> dict[str, str]:
    facts = {
        "settings": request.settings,
        "version": rayft.__version__,
        "environment": request.environment,
        "stop_within_s": str(request.stop_within_s),
    }
    if request.config is not None:
        facts["storage"] = _run_folder(request.config, here=here)
        facts["workers"] = str(request.config.cluster.workers)
    return facts


def _run_folder(config: RunConfig, *, here: bool) -> str:
    place, mark, options = config.storage.partition("?")
    if here and "://" not in place:
        place = os.path.abspath(place)
    return f"{place.rstrip('/')}/runs/{config.name}{mark}{options}"
