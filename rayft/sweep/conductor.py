"""What runs next in a sweep, and what is written down of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rayft.config import RunConfig
from rayft.errors import ConfigError, RayftError, StorageError
from rayft.sweep.choose import best_epoch, choose_winner, rank, sweep_metric
from rayft.sweep.record import DONE, Role, SweepFolder, Trial, trial_id
from rayft.sweep.search import Seen, Suggest
from rayft.sweep.space import Params, Space, fits, trial_config

Next = Trial | Literal["wait", "end"]


class Conductor:
    """Hands out trials in order: search, finalists with other seeds, the winner.

    Everything it decides follows from the list of trials, so that a new one on the same folder goes on where a
    killed one stopped. Safe to read from other threads.

    Attributes:
        failure: What ends the sweep, such as a list of trials that cannot be written; None as long as all is well.
    """

    def __init__(
        self,
        config: RunConfig,
        space: Space,
        folder: SweepFolder,
        suggest: Suggest,
        *,
        kind: str,
        slots: int,
        first: Params | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Continue the sweep of ``folder``.

        Args:
            config: The sweep; sweep.trials is the number of trials wanted in all.
            space: Searched fields.
            folder: Holds the list of trials.
            suggest: Gives the values of the next trial.
            kind: light or distributed; for the record.
            slots: Trials at once.
            first: Values of the first trial, the baseline; drawn like the others where not given.
            clock: Seconds; for the time budget.
        """
        self._config, self._space, self._folder, self._suggest = config, space, folder, suggest
        self._kind, self._slots, self._first, self._clock = kind, slots, first, clock
        self._metric = sweep_metric(config)
        self._started_at = clock()
        self._attempt_from: dict[str, tuple[float, int]] = {}
        self._paused: set[str] = set()
        self._exhausted = self._closed = False
        self.failure: RayftError | None = None
        self._lock = threading.Lock()
        self._trials = folder.trials()
        if (winner := self._trials.get(trial_id(0, "winner"))) and winner.state != "finished":
            # The cause of its failure may be mended now, and another trial may win.
            del self._trials[winner.id]

    @property
    def trials(self) -> dict[str, Trial]:
        """The trials by id, as they stand."""
        with self._lock:
            return dict(self._trials)

    @property
    def is_closed(self) -> bool:
        """Whether nothing is written down any more."""
        return self._closed

    def close(self) -> None:
        """Write nothing down any more; trials that ran will wait at the next start."""
        self._closed = True

    def give_up(self, failure: RayftError) -> None:
        """Note what ends the sweep; the trials that run will go on at the next start."""
        self.failure = self.failure or failure
        self.close()

    def start_clock(self) -> None:
        """Let the time budget begin now, with the first trial; the preparation does not count."""
        self._started_at = self._clock()

    def out_of_time(self) -> bool:
        """Whether the search's time budget is spent."""
        budget = self._config.sweep.time_budget_s
        return budget is not None and self._clock() - self._started_at > budget

    def has_more(self) -> bool:
        """Whether trials of the search have not started yet."""
        search = [trial for trial in self.trials.values() if trial.role == "search"]
        drawn = self._exhausted or len(search) >= self._config.sweep.trials
        waiting = any(trial.state == "waiting" for trial in search)
        return (waiting or not drawn) and not self.out_of_time()

    def next(self) -> Next:
        """Hand out the trial to start now; ``wait`` while others must end first, ``end`` when nothing is left."""
        if self._closed:
            return "end"
        running = [trial for trial in self._trials.values() if trial.state == "running"]
        if len(running) - len(self._paused) >= self._slots:
            return "wait"
        waiting = [trial for trial in self._trials.values() if trial.state == "waiting"]
        allowed = [trial for trial in waiting if trial.role != "search" or not self.out_of_time()]
        found = allowed[0] if allowed else self._next_of_search()
        if found is None and not any(trial.role == "search" for trial in running):
            found = self._next_repeat()
        if found is None:
            if running:
                return "wait"
            found = self._next_winner()
        if found is None:
            return "end"
        self._change(found.id, state="running")
        return self._trials[found.id]

    def started(self, name: str) -> None:
        """Note that a trial runs, or runs again after a pause or failure."""
        self._paused.discard(name)
        with self._lock:
            self._attempt_from[name] = (self._clock(), len(self._trials[name].curve))
        self._change(name, state="running")

    def paused(self, name: str) -> None:
        """Note that the scheduler holds a trial back; its slot is free."""
        self._paused.add(name)

    def reported(self, name: str, report: Mapping[str, Any], params: Params | None = None) -> None:
        """Take the state of a trial after an epoch.

        Args:
            name: Of the trial.
            report: curve, epochs, train_s; failures of attempts in the same process; in the end ``summary``,
                or ``error``.
            params: Its values, which PBT may have changed.
        """
        curve = tuple(report["curve"])
        changes: dict[str, Any] = {
            "curve": curve,
            "epochs": report["epochs"],
            "train_s": report["train_s"],
            "best": best_epoch(curve, self._metric),
        }
        if report["failures"]:
            changes["failures"] = max(self._trials[name].failures, report["failures"])
        if params is not None:
            changes["params"] = params
        if report["error"] is not None:
            changes |= {"state": "failed", "error": report["error"]}
        elif report["finished"]:
            changes |= {"state": "finished", "summary": report["summary"], "error": None}
        self._change(name, **changes)
        self._note_latencies(report.get("latencies") or {})

    def completed(self, name: str) -> None:
        """Note the end of a trial; one that had epochs left was stopped early."""
        self._paused.discard(name)
        if self._trials[name].state == "running":
            self._change(name, state="stopped")

    def recovered(self, name: str, error: str) -> None:
        """Note an attempt that failed and is repeated."""
        self._change(name, failures=self._trials[name].failures + 1, error=error)

    def failed(self, name: str, error: str) -> None:
        """Note a trial that failed for good."""
        self._paused.discard(name)
        self._change(name, state="failed", failures=self._trials[name].failures + 1, error=error)

    def winner_folder(self, winner: Trial) -> str:
        """Return the folder below ``trials`` where the winner goes on; one of its own where it is trained anew."""
        return trial_id(winner.index) + ("-refit" if winner.refit else "")

    def architectures(self) -> dict[str, RunConfig]:
        """Return one trial and its config for each network that a trial of the search has."""
        return {group[0]: trial_config(self._config, self._trials[group[0]].params) for group in self._alike()}

    def _alike(self) -> list[list[str]]:
        """Group the trials of the search by what decides how fast their network answers."""
        groups: dict[str, list[str]] = {}
        for trial in self._trials.values():
            if trial.role == "search" and trial.best:
                config = trial_config(self._config, trial.params)
                size, channels = config.data.image_size, config.data.channels
                key = f"{config.model} {size} {channels} {config.train.precision}"
                groups.setdefault(key, []).append(trial.id)
        return list(groups.values())

    def left_s(self, trial: Trial) -> float | None:
        """Estimate the seconds that a running trial still takes; None before its first epoch here."""
        began, done = self._attempt_from.get(trial.id, (0.0, 0))
        epochs = len(trial.curve) - done
        if trial.state != "running" or epochs <= 0:
            return None
        return (self._clock() - began) / epochs * (trial.epochs - len(trial.curve))

    def _next_of_search(self) -> Trial | None:
        """Draw new trials until one can run; values that do not go together make a failed trial."""
        while not self._exhausted and not self.out_of_time():
            search = [trial for trial in self._trials.values() if trial.role == "search"]
            index = 1 + max((trial.index for trial in search), default=-1)
            if len(search) >= self._config.sweep.trials:
                return None
            baseline = index == 0 and self._first is not None
            params = self._first if baseline else self._suggest(index, self._history(search))
            if params is None:
                self._exhausted = True
                return None
            trial = self._new(index, "search", params, self._config.seed, baseline=baseline)
            try:
                trial_config(self._config, params)
            except ConfigError as error:
                self._change(trial.id, state="failed", error=str(error.args[0]))
                continue
            return trial
        return None

    def _history(self, search: Sequence[Trial]) -> list[Seen]:
        return [
            Seen(trial.params, None if trial.state == "failed" else trial.metric(self._metric))
            for trial in search
            if fits(self._space, trial.params)
        ]

    def _next_repeat(self) -> Trial | None:
        sweep = self._config.sweep
        known = {(trial.index, trial.seed) for trial in self._trials.values() if trial.role == "repeat"}
        for best in rank(self._trials.values(), self._metric)[: sweep.finalists]:
            for seed in range(self._config.seed + 1, self._config.seed + sweep.seeds):
                if (best.index, seed) not in known:
                    return self._new(best.index, "repeat", best.params, seed)
        return None

    def _next_winner(self) -> Trial | None:
        best = choose_winner(self._trials.values(), self._metric)
        before = self._trials.get(trial_id(0, "winner"))
        refit = self._config.sweep.refit
        if best is None or (before and before.state in DONE and (before.index, before.refit) == (best.index, refit)):
            return None
        return self._new(best.index, "winner", best.params, best.seed)

    def _new(self, index: int, role: Role, params: Params, seed: int, *, baseline: bool = False) -> Trial:
        trial = Trial(
            id=trial_id(index, role, seed),
            index=index,
            role=role,
            params=params,
            seed=seed,
            kind=self._kind,
            epochs=self._config.train.epochs,
            refit=role == "winner" and self._config.sweep.refit,
            baseline=baseline,
        )
        with self._lock:
            self._trials[trial.id] = trial
        return trial

    def _note_latencies(self, measured: Mapping[str, float]) -> None:
        for group in self._alike() if measured else ():
            for name in group:
                if group[0] in measured:
                    self._change(name, latency_ms=measured[group[0]])

    def _change(self, name: str, **changes: Any) -> None:
        if self._closed:
            return
        with self._lock:
            self._trials[name] = replace(self._trials[name], **changes)
        try:
            self._folder.write_trials(self._trials)
        except StorageError as error:
            self.give_up(error)
            raise
