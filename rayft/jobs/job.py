"""What a job of rayft is called, what it tells of itself, and how it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ENDED = ("SUCCEEDED", "STOPPED", "FAILED")
# What Ray calls them, for people.
STATES = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "finished",
    "STOPPED": "stopped",
    "FAILED": "failed",
}
_PREFIX = "rayft-"
_MARK = "rayft_"


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it.

    Attributes:
        id: Ray's submission id.
        run: Name of the run; the same for every attempt.
        attempt: 1 for the first submission of that name.
        task: The command that runs.
        state: PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED.
        facts: What was written down at the submission: storage, workers, digest of the settings, ...
        message: What Ray says of it; of a failed job, the end of its log.
        exit_code: Of the command, once it has ended by itself.
        started: Seconds since 1970; None while it waits.
        ended: The same of its end.
        ray_id: Ray's id of the driver, once it has connected.
    """

    id: str
    run: str
    attempt: int
    task: str
    state: str
    facts: Mapping[str, str]
    message: str = ""
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    ray_id: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in ENDED

    @property
    def in_words(self) -> str:
        """Its state, as a person would say it."""
        return STATES.get(self.state, self.state.lower())

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "run": self.run,
            "job": self.id,
            "attempt": self.attempt,
            "task": self.task,
            "state": self.in_words,
            "exit_code": self.exit_code,
            "started": self.started,
            "ended": self.ended,
            **self.facts,
        }


def submission_id(run: str, attempt: int) -> str:
    """Return the id under which Ray knows an attempt; the same for the same run, so that two cannot be submitted."""
    return f"{_PREFIX}{run}-{attempt}"


def metadata(run: str, task: str, facts: Mapping[str, str]) -> dict[str, str]:
    """Return what Ray keeps with a job; anybody with the cluster's token reads it."""
    return {_MARK + name: value for name, value in {"run": run, "task": task, **facts}.items()}


def read_job(details: Mapping[str, Any]) -> Job | None:
    """Read a job from Ray's description of it; None where it is none of rayft."""
    given = {
        name.removeprefix(_MARK): value
        for name, value in (details.get("metadata") or {}).items()
        if name.startswith(_MARK)
    }
    identity = details.get("submission_id") or ""
    match = re.fullmatch(rf"{_PREFIX}(.+)-(\d+)", identity)
    if match is None or "run" not in given or "task" not in given:
        return None
    driver = details.get("driver_info") or {}
    return Job(
        id=identity,
        run=given.pop("run"),
        attempt=int(match[2]),
        task=given.pop("task"),
        state=str(getattr(details["status"], "value", details["status"])),
        facts=given,
        message=details.get("message") or "",
        exit_code=details.get("driver_exit_code"),
        started=_seconds(details.get("start_time")),
        ended=_seconds(details.get("end_time")),
        ray_id=details.get("job_id") or driver.get("id"),
    )


def latest(jobs: Sequence[Job], run: str) -> Job | None:
    """Return the last attempt of a run."""
    return max((job for job in jobs if job.run == run), key=lambda job: job.attempt, default=None)


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None
