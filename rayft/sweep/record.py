"""What a sweep's folder keeps of each trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rayft.errors import StorageError
from rayft.runs import RunFolder
from rayft.storage import Storage
from rayft.sweep.space import Params

State = Literal["waiting", "running", "finished", "stopped", "failed"]
Role = Literal["search", "repeat", "winner"]
DONE: tuple[State, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Trial:
    """One trial: its values, and what came of them.

    Attributes:
        id: Names it and its folder; a function of the sweep's seed and the trial's place alone.
        index: Place in the search, from 0; repeats carry that of the trial they repeat.
        role: search; repeat: a finalist with another seed; winner: the one that is packaged.
        params: Searched fields and their values.
        seed: The run's seed.
        kind: light or distributed.
        state: stopped means by the scheduler or the time budget, before the last epoch.
        curve: One mapping for each epoch: epoch, loss, examples_per_s and the validation metrics.
        epochs: Epochs of the whole trial.
        best: epoch, step and metrics of the best epoch.
        train_s: Seconds spent on steps, of all attempts.
        failures: Attempts that failed.
        error: Why it failed.
        latency_ms: Median time of one picture on the trained network; None where not measured.
        summary: What ``run_session`` returned, for the winner.
        refit: Whether the winner was trained anew, on train and validation.
        baseline: Whether its values are those of the config without a search; never stopped early.
    """

    id: str
    index: int
    role: Role
    params: Params
    seed: int
    kind: str
    state: State = "waiting"
    curve: tuple[Mapping[str, Any], ...] = ()
    epochs: int = 0
    best: Mapping[str, Any] | None = None
    train_s: float = 0.0
    failures: int = 0
    error: str | None = None
    latency_ms: float | None = None
    summary: Mapping[str, Any] | None = field(default=None, repr=False)
    refit: bool = False
    baseline: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that ``Trial(**values)`` takes."""
        return asdict(self)

    def metric(self, name: str) -> float | None:
        """Return the metric of the best epoch; None before the first one."""
        return None if self.best is None else float(self.best["metrics"][name])

    @property
    def done_epochs(self) -> int:
        """Epochs done; a winner that is trained anew has no curve, since nothing is left to validate it by."""
        return len(self.curve) or (self.epochs if self.state == "finished" else 0)

    @property
    def epoch_s(self) -> float | None:
        """Mean seconds of an epoch's steps."""
        return self.train_s / len(self.curve) if self.curve and self.train_s else None


@dataclass(frozen=True)
class SweepFolder:
    """``runs/<name>/`` of a sweep: the run's folder, with a list of trials and their folders."""

    run: RunFolder

    @property
    def storage(self) -> Storage:
        """The folder itself."""
        return self.run.storage

    def trial(self, trial_id: str) -> RunFolder:
        """Return the folder of a trial."""
        return RunFolder(self.storage / "trials" / trial_id)

    def trials(self) -> dict[str, Trial]:
        """Return the trials by id, in order; those that were running wait again.

        Raises:
            StorageError: ``trials.jsonl`` is damaged.
        """
        where = self.storage / "trials.jsonl"
        text = where.read_bytes().decode() if where.exists() else ""
        found: dict[str, Trial] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                trial = Trial(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise StorageError(
                    f"{where.uri} is damaged in line {number}: {error}.", "Start anew with --fresh."
                ) from None
            trial = replace(trial, curve=tuple(trial.curve))
            found[trial.id] = replace(trial, state="waiting") if trial.state == "running" else trial
        return found

    def write_trials(self, trials: Mapping[str, Trial]) -> None:
        """Replace the list as a whole; a reader, or the next start, sees the old one or the new one."""
        text = "".join(json.dumps(trial.as_dict()) + "\n" for trial in trials.values())
        (self.storage / "trials.jsonl").write_bytes(text.encode())


def trial_id(index: int, role: Role = "search", seed: int = 0) -> str:
    """Return the name of a trial, such as 0007, 0007-seed3 or winner."""
    return "winner" if role == "winner" else f"{index:04d}" + (f"-seed{seed}" if role == "repeat" else "")
