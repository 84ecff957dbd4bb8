"""What a job prints and how far it is, as seen from a client."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayft.errors import ClusterError, RunFailed
from rayft.jobs.job import Job
from rayft.screen import format_duration, read_progress

if TYPE_CHECKING:
    from rayft.distributed.job_client import Cluster

POLL_S = 1.0
# So long a cluster may be silent before a follower gives up; the job does not mind.
PATIENCE_S = 120.0
_BYTES_PER_S = 2_000_000


@dataclass(frozen=True)
class Standing:
    """How a job stands.

    Attributes:
        job: The job.
        progress: epoch, epochs, step, steps, loss, examples_per_s of a training; None where it tells none.
        line: What it printed last.
        nodes: Address of the node of each of its workers.
    """

    job: Job
    progress: dict[str, Any] | None
    line: str
    nodes: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {**self.job.as_dict(), "progress": self.progress, "line": self.line, "nodes": list(self.nodes)}

    def in_words(self, now: float) -> str:
        """Say what runs, how far and how fast it is, where its workers are and its results will be."""
        job = self.job
        since = f" for {format_duration(now - job.started)}" if job.started and not job.is_over else ""
        lines = [f"{job.run}  {job.task}  {job.in_words}{since}  {self.line}".rstrip()]
        where = []
        if self.nodes:
            hosts = sorted(set(self.nodes))
            where.append(f"{len(self.nodes)} workers on {', '.join(hosts)}")
        elif "workers" in job.facts:
            where.append(f"{job.facts['workers']} workers asked for")
        if "storage" in job.facts:
            where.append(job.facts["storage"])
        return "\n".join([*lines, f"    {'; '.join([*where, f'job {job.id}'])}"])


def follow(cluster: Cluster, job: Job, write: Callable[[str], None]) -> Job:
    """Write what a job prints until it has ended; returns how it ended.

    Raises:
        ClusterError: The cluster was silent for too long; the job goes on meanwhile.
    """
    shown = 0
    heard_at = time.monotonic()
    while True:
        try:
            # In this order, so that what is printed last is seen.
            job = cluster.attempt(job.id)
            log = log_of(cluster, job)
        except ClusterError:
            if time.monotonic() - heard_at > PATIENCE_S:
                raise
            time.sleep(POLL_S)
            continue
        heard_at = time.monotonic()
        if log[shown:]:
            write(log[shown:])
            shown = len(log)
        if job.is_over:
            return job
        # The whole log comes every time.
        time.sleep(max(POLL_S, len(log) / _BYTES_PER_S))


def wait_until_over(cluster: Cluster, job: Job, within_s: float) -> Job:
    """Wait for the end of a job; returns how it stands then."""
    end = time.monotonic() + within_s
    while not job.is_over and time.monotonic() < end:
        time.sleep(POLL_S)
        job = cluster.attempt(job.id)
    return job


def standing(cluster: Cluster, job: Job, addresses: dict[str, str]) -> Standing:
    """Find out how a job stands.

    Args:
        cluster: Where it runs.
        job: The job.
        addresses: Address of each node by its id.
    """
    lines = [line for line in log_of(cluster, job).splitlines() if line.strip()] if job.started else []
    told = next(((line, found) for line in reversed(lines) if (found := read_progress(line))), None)
    line = told[0] if told else (lines[-1] if lines else "")
    nodes = [addresses.get(node, node) for node in cluster.worker_nodes(job)] if not job.is_over else []
    return Standing(job, told[1] if told else None, line.strip(), nodes)


def log_of(cluster: Cluster, job: Job) -> str:
    """Return a job's log; nothing where there is none yet."""
    try:
        return cluster.log(job)
    except RunFailed:
        return ""


def last_words(cluster: Cluster, job: Job) -> str:
    """Return what a command said at its end: its error, or else its last line."""
    lines = [line.strip() for line in log_of(cluster, job).splitlines() if line.strip()]
    problem = next((line for line in reversed(lines) if line.startswith("error: ")), None)
    return (problem or (lines[-1] if lines else "")).removeprefix("error: ")
