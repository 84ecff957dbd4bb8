"""Checkpoints of a run: written whole or not at all, found again after a crash."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rayft.errors import StorageError
from rayft.learn.patience import Patience, Waiting
from rayft.learn.state import state_variables
from rayft.learn.step import Task
from rayft.storage import Storage

FORMAT = 1
PREFIX = "step-"


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: Epochs finished.
        step: Steps done in the whole run.
        best: epoch, step and metrics of the epoch with the best validation metric so far, or None.
        unlogged: Losses of the latest steps that no line of the journal covers yet.
        waiting: How long the validation metric has not improved, and what followed from it.
        stopped: The training ended before its last epoch.
    """

    epoch: int = 0
    step: int = 0
    best: dict[str, Any] | None = None
    unlogged: tuple[float, ...] = ()
    waiting: Waiting = field(default_factory=Waiting)
    stopped: bool = False


@dataclass(frozen=True)
class Checkpoints:
    """The folder that holds a run's checkpoints.

    A checkpoint is a folder with ``state.npz`` and, written last, ``position.json``, which carries the
    digest of the former. A folder without it was never committed.
    """

    folder: Storage
    keep: int = field(default=2)

    def save(self, task: Task, position: Position) -> None:
        """Write a checkpoint of the trainable state; when this returns it is committed."""
        where = self.folder / _name(position.step)
        where.make_folder()
        state = dump_state(task)
        (where / "state.npz").write_bytes(state)
        commit = {
            "format": FORMAT,
            "state_sha256": hashlib.sha256(state).hexdigest(),
            "frozen_sha256": task.frozen_sha256,
            **asdict(position),
        }
        (where / "position.json").write_bytes(json.dumps(commit, indent=1).encode())
        self._prune(position)

    def latest(self) -> Position | None:
        """Return the newest committed position whose files are whole; damaged ones are passed over."""
        for step in reversed(self.steps()):
            commit = self._commit(step)
            if commit is not None:
                return _position(commit)
        return None

    def restore(self, task: Task, step: int) -> None:
        """Load the checkpoint of ``step`` into the task.

        Raises:
            StorageError: The checkpoint is gone, or belongs to other frozen weights or another network.
        """
        commit = self._commit(step)
        if commit is None:
            raise StorageError(f"Checkpoint {self.folder.uri}/{_name(step)} is missing or damaged.", "Use --fresh.")
        if commit["frozen_sha256"] != task.frozen_sha256:
            raise StorageError(
                f"Checkpoint {_name(step)} was made on other pretrained weights than those loaded now.",
                "Restore the weights file, or start anew with --fresh.",
            )
        load_state(task, (self.folder / _name(step) / "state.npz").read_bytes())

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""
        names = self.folder.list() if self.folder.exists() else []
        found = [int(name[len(PREFIX) :]) for name in names if name.startswith(PREFIX)]
        return sorted(step for step in found if (self.folder / _name(step) / "position.json").exists())

    def remove_orphans(self, resumed_step: int) -> list[str]:
        """Delete folders never committed, or later than the step resumed from; returns their names.

        A later one is damaged, or it would have been resumed from; kept, it would count among the latest.
        """
        names = self.folder.list() if self.folder.exists() else []
        committed = {_name(step) for step in self.steps() if step <= resumed_step}
        orphans = [name for name in names if name.startswith(PREFIX) and name not in committed]
        for name in orphans:
            (self.folder / name).delete()
        return orphans

    def _commit(self, step: int) -> dict[str, Any] | None:
        commit = self._read_commit(step)
        try:
            state = (self.folder / _name(step) / "state.npz").read_bytes()
        except StorageError:
            return None
        return commit if commit and commit.get("state_sha256") == hashlib.sha256(state).hexdigest() else None

    def _read_commit(self, step: int) -> dict[str, Any] | None:
        try:
            commit = json.loads((self.folder / _name(step) / "position.json").read_bytes())
        except (StorageError, ValueError):
            return None
        if commit.get("format") != FORMAT:
            raise StorageError(
                f"Checkpoint {self.folder.uri}/{_name(step)} has format {commit.get('format')}, not {FORMAT}.",
                "Resume with the version of rayft that wrote it, or start anew with --fresh.",
            )
        return commit

    def _prune(self, position: Position) -> None:
        steps = self.steps()
        latest = steps[-self.keep :]
        # Whichever of the latest is resumed from, its best one must be there too.
        bests = [commit["best"] for commit in map(self._read_commit, latest) if commit] + [position.best]
        kept = {*latest, *(best["step"] for best in bests if best)}
        for step in steps:
            if step not in kept:
                (self.folder / _name(step)).delete()


def dump_state(task: Task) -> bytes:
    """Return all variables that a step may change as an uncompressed npz."""
    arrays: dict[str, Any] = {
        f"{index:05d}": np.asarray(variable) for index, variable in enumerate(state_variables(task))
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def load_state(task: Task, state: bytes) -> None:
    """Assign what ``dump_state`` gave.

    Raises:
        StorageError: Number or shapes of the variables differ.
    """
    variables = state_variables(task)
    with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
        same = len(arrays.files) == len(variables) and all(
            arrays[f"{index:05d}"].shape == tuple(variable.shape) for index, variable in enumerate(variables)
        )
        if not same:
            raise StorageError("The checkpoint belongs to another network or optimizer.", "Start anew with --fresh.")
        for index, variable in enumerate(variables):
            variable.assign(arrays[f"{index:05d}"])
    task.updater.reload()
    if len(task.network.phases) > 1:
        task.model.reload()


def _position(commit: dict[str, Any]) -> Position:
    """Rebuild the position whose fields ``Checkpoints.save`` wrote."""
    waiting = commit["waiting"]
    return Position(
        commit["epoch"],
        commit["step"],
        commit["best"],
        tuple(commit["unlogged"]),
        Waiting(Patience(**waiting["stopping"]), Patience(**waiting["plateau"]), waiting["plateau_factor"]),
        commit["stopped"],
    )


def _name(step: int) -> str:
    return f"{PREFIX}{step:09d}"
