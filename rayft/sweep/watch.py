"""What the driver of a sweep says of its trials: figures at all times, events at each change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from rayft.config import RunConfig
from rayft.observe.sink import Events, Level, OnLine, Sink
from rayft.sweep.choose import choose_winner, sweep_metric
from rayft.sweep.conductor import Conductor
from rayft.sweep.record import State, Trial


class SweepWatch:
    """Looks at the standing of a sweep, and tells what is new."""

    def __init__(self, config: RunConfig, sink: Sink, write: OnLine) -> None:
        """Know nothing yet.

        Args:
            config: The sweep.
            sink: Takes figures, and events of the sweep as a whole.
            write: Takes the lines of trials.
        """
        self._config, self._sink, self._write = config, sink, write
        self._metric = sweep_metric(config)
        self._phase = ""
        self._seen: dict[str, tuple[str, int]] = {}

    def observe(self, on_standing: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return ``on_standing`` that looks besides."""

        def observed(standing: Any) -> None:
            on_standing(standing)
            self.look(standing)

        return observed

    def look(self, standing: Any) -> None:
        """Tell what is new since the last time.

        Args:
            standing: ``phase`` and, once trials begin, ``conductor``.
        """
        if standing.phase != self._phase:
            self._phase = standing.phase
            self._sink.event("phase", phase=standing.phase)
        if standing.conductor is not None:
            self._tell_figures(standing.conductor)
            self._tell_news(standing.conductor)

    def _tell_figures(self, conductor: Conductor) -> None:
        trials = list(conductor.trials.values())
        for state in get_args(State):
            self._sink.record("rayft_sweep_trials", sum(trial.state == state for trial in trials), state=state)
        self._sink.record("rayft_sweep_trials_planned", self._config.sweep.trials)
        best = choose_winner(trials, self._metric)
        value = None if best is None else best.metric(self._metric)
        if value is not None:
            self._sink.record("rayft_sweep_best", value, metric=self._metric)

    def _tell_news(self, conductor: Conductor) -> None:
        for trial in conductor.trials.values():
            now = (trial.state, trial.done_epochs)
            before = self._seen.get(trial.id, ("waiting", 0))
            self._seen[trial.id] = now
            if now != before and trial.state != "waiting":
                self._tell(trial, is_new=now[0] != before[0])

    def _tell(self, trial: Trial, *, is_new: bool) -> None:
        said: dict[str, Any] = {"role": trial.role, "epoch": trial.done_epochs, "epochs": trial.epochs}
        said |= {"params": dict(trial.params)} if is_new and trial.state == "running" else {}
        said |= {self._metric: trial.metric(self._metric)} if trial.best else {}
        said |= {"error": trial.error} if trial.error else {}
        event = f"trial_{trial.state}" if is_new else "trial_epoch"
        level: Level = "error" if trial.state == "failed" else "info"
        Events(self._write, run=self._config.name, trial=trial.id).event(event, level=level, **said)
