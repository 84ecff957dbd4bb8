"""Ray's job API at one address: bounded in time, its errors in words."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from rayft.credentials import find_token, has_password, token_required, without_password
from rayft.errors import ClusterError, RunFailed
from rayft.jobs.job import Job, latest, read_job

# Of a training, and of a sweep's light trials.
WORKERS = ("RayTrainWorker", "TrialActor")
CONNECT_S, ANSWER_S = 10.0, 60.0
TOKEN_FIX = (
    "`ray get-auth-token` prints the token on the head node. Put it into ~/.ray/auth_token, mode 0600, or name its "
    "file in RAY_AUTH_TOKEN_PATH."
)
# They would replace the address that was given.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

# What Ray's client tells of the packages that it sends says nothing to those who sent a run.
for _name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Node:
    """One machine of the cluster.

    Attributes:
        id: Ray's id of it.
        host: Its name, as it calls itself.
        ip: Its address.
        is_head: Whether drivers of jobs run there.
        resources: CPU, GPU, ... in all.
        python: Interpreter that Ray starts workers with; None where Ray does not say.
    """

    id: str
    host: str
    ip: str
    is_head: bool
    resources: dict[str, float]
    python: str | None


class Cluster(JobSubmissionClient):
    """A cluster, reached through its dashboard's address."""

    def __init__(self, address: str) -> None:
        """Find out whether the cluster answers, and takes the token.

        Raises:
            ClusterError: It does not; or the address is none.
        """
        self.url = check_address(address)
        found = find_token() if token_required() else None
        self._token_from = found[1] if found else None
        # Without one, the client would look for a token itself, and fail in its own words.
        headers = {"Authorization": f"Bearer {found[0]}" if found else ""}
        with _without(_OVERRIDES):
            super().__init__(self.url, headers=headers)

    def jobs(self) -> list[Job]:
        """Return the jobs of rayft that the cluster knows, the newest first."""
        found = [read_job(details) for details in self._get("/api/jobs/")]
        return sorted((job for job in found if job), key=lambda job: job.started or 0.0, reverse=True)

    def job(self, name: str) -> Job:
        """Return the last attempt of a run, or the job of that id.

        Raises:
            ClusterError: The cluster knows neither.
        """
        jobs = self.jobs()
        found = latest(jobs, name) or next((job for job in jobs if job.id == name), None)
        if found is None:
            known = ", ".join(dict.fromkeys(job.run for job in jobs)) or "none"
            raise ClusterError(
                f"The cluster at {self.url} knows no job of the run {name!r}; it knows {known}.",
                "`rayft jobs list` lists them; a cluster that was started anew has forgotten earlier ones.",
            )
        return found

    def attempt(self, identity: str) -> Job:
        """Return the job of an id that is known to exist."""
        found = read_job(self._get(f"/api/jobs/{identity}"))
        if found is None:
            raise RunFailed(f"The job {identity!r} is none of rayft.", "`rayft jobs list` lists those that are.")
        return found

    def log(self, job: Job) -> str:
        """Return what the job's driver has printed."""
        return self._get(f"/api/jobs/{job.id}/logs").get("logs") or ""

    def nodes(self) -> list[Node]:
        """Return the living nodes."""
        rows = self._get("/api/v0/nodes?detail=1&limit=10000")["data"]["result"]["result"]
        pythons = self._pythons()
        return [
            Node(
                id=row["node_id"],
                host=pythons.get(row["node_id"], ("", None))[0] or row.get("node_name") or row["node_ip"],
                ip=row["node_ip"],
                is_head=bool(row.get("is_head_node")),
                resources=dict(row.get("resources_total") or {}),
                python=pythons.get(row["node_id"], ("", None))[1],
            )
            for row in rows
            if row["state"] == "ALIVE"
        ]

    def worker_nodes(self, job: Job) -> list[str]:
        """Return the node of each training worker that the job has now."""
        if job.ray_id is None:
            return []
        query = f"filter_keys=job_id&filter_predicates=%3D&filter_values={job.ray_id}"
        rows = self._get(f"/api/v0/actors?limit=10000&detail=1&{query}")["data"]["result"]["result"]
        return [row["node_id"] for row in rows if row["state"] == "ALIVE" and row["class_name"] in WORKERS]

    def asks_for_a_token(self) -> bool:
        """Whether it is closed to those who have none."""
        answer = self._get("/api/authentication_mode")
        return str(answer.get("authentication_mode", "disabled")).lower() != "disabled"

    def _pythons(self) -> dict[str, tuple[str, str | None]]:
        """Return host and interpreter by node id."""
        summary = self._get("/nodes?view=summary").get("data", {}).get("summary") or []
        found = {}
        for node in summary:
            identity = (node.get("raylet") or {}).get("nodeId")
            if identity:
                found[identity] = (node.get("hostname") or "", worker_python(node.get("cmdline") or ()))
        return found

    def _get(self, path: str) -> Any:
        answer = self._do_request("GET", path)
        if answer.status_code == 404 and answer.text.endswith("does not exist"):
            raise RunFailed(f"{answer.text}.", "A cluster that was started anew has forgotten earlier jobs.")
        if answer.status_code == 404:
            raise ClusterError(
                f"{self.url} has no {path.partition('?')[0]}; it is no Ray dashboard, or one without the job API.",
                "Give the dashboard's URL, such as http://head:8265; the cluster needs `pip install 'ray[default]'`.",
            )
        if answer.status_code != 200:
            self._raise_error(answer)
        try:
            return answer.json()
        except ValueError:
            raise ClusterError(
                f"What answers at {self.url} is no Ray dashboard.", "Give its URL, such as http://head:8265."
            ) from None

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        try:
            return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **options)
        except AuthenticationError:
            raise self._refused() from None
        except requests.RequestException as error:
            raise ClusterError(
                f"Cannot reach a Ray dashboard at {self.url}: {_reason(error)}.",
                "Give the URL of the head node's dashboard, such as http://head:8265; is the cluster up?",
            ) from None

    def _refused(self) -> ClusterError:
        if self._token_from is None:
            off = "" if token_required() else " (RAY_AUTH_MODE is not token)"
            return ClusterError(f"The cluster at {self.url} asks for a token, and none was given{off}.", TOKEN_FIX)
        return ClusterError(f"The cluster at {self.url} refuses the token of {self._token_from}.", TOKEN_FIX)

    def _raise_error(self, answer: requests.Response) -> None:
        lines = answer.text.strip().splitlines() or ["no reason given"]
        raise RunFailed(
            f"The cluster at {self.url} answers {answer.status_code}: {lines[-1].strip()}",
            "Look at the dashboard's logs there.",
        )

    def _check_connection_and_version(self, *arguments: Any, **options: Any) -> None:
        version = self._get("/api/version").get("ray_version", "unknown")
        ours = re.match(r"\d+\.\d+", self._client_ray_version)
        if ours is None or not version.startswith(f"{ours[0]}."):
            raise ClusterError(
                f"The cluster at {self.url} runs Ray {version}, this client {self._client_ray_version}.",
                "Install the same on both.",
            )
        self._server_ray_version = version


def check_address(address: str) -> str:
    """Return the URL of a dashboard, without a slash at its end.

    Raises:
        ClusterError: It is none.
    """
    if has_password(address):
        raise ClusterError(f"--address is {without_password(address)!r}, which holds a password.", TOKEN_FIX)
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClusterError(
            f"--address is {without_password(address)!r}; the URL of a Ray dashboard is allowed.",
            "Example: --address http://head:8265",
        )
    return address.rstrip("/")


def worker_python(raylet: Sequence[str]) -> str | None:
    """Return the interpreter of a node's workers, from the command line of its raylet."""
    for word in raylet:
        name, _, command = word.partition("=")
        if name.lstrip("-") == "python_worker_command" and command:
            first = re.match(r'"([^"]+)"|(\S+)', command)
            return (first[1] or first[2]) if first else None
    return None


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer within {CONNECT_S:.0f} s"
    text = str(error)
    for part, words in (
        ("Connection refused", "connection refused"),
        ("Name or service not known", "no such host"),
        ("name resolution", "no such host"),
        ("Network is unreachable", "the network is unreachable"),
        ("No route to host", "no route to the host"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
    ):
        if part in text:
            return words
    return type(error).__name__


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
