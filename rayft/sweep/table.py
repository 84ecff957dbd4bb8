"""What a person sees of a sweep in the terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rayft.config import RunConfig
from rayft.screen import LiveLine, format_duration, format_metrics
from rayft.sweep.choose import choose_winner, sweep_metric
from rayft.sweep.conductor import Conductor
from rayft.sweep.record import Trial
from rayft.sweep.space import describe, format_value, searched

if TYPE_CHECKING:
    from rayft.storage import Storage

_LIVE_EVERY_S = 0.5
# A terminal has few lines; what runs and what is best matter.
_MAX_ROWS = 20


class SweepScreen:
    """Shows a sweep as a table that renews itself; off a terminal, one line for each news.

    Args:
        config: The sweep.
        stream: Where to; stderr if not given.
    """

    def __init__(self, config: RunConfig, stream: TextIO | None = None) -> None:
        self._metric = sweep_metric(config)
        self._stream = stream or sys.stderr
        self._console = Console(file=self._stream)
        self._line = LiveLine(self._stream)
        self._live: Live | None = None
        self._shown_at = 0.0
        self._phase, self._planned = "", False
        self._seen: dict[str, tuple[str, int]] = {}

    def __call__(self, standing: Any) -> None:
        """Show how the sweep stands: ``phase``, and ``plan``, ``share`` and ``conductor`` where known."""
        if standing.plan is not None and not self._planned:
            self._planned = True
            self._print(standing.plan.describe())
        if standing.share is not None:
            self._line({"phase": standing.phase, "share": standing.share})
        elif standing.conductor is None:
            if standing.phase != self._phase:
                self._line.close()
                self._print(standing.phase)
        elif self._stream.isatty():
            self._renew(standing.conductor)
        else:
            self._tell_news(standing.conductor)
        self._phase = standing.phase

    def close(self) -> None:
        """Leave the table as it stands."""
        if self._live is None:
            self._line.close()
        else:
            self._live.stop()
            self._live = None

    def _renew(self, conductor: Conductor) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        if time.monotonic() - self._shown_at > _LIVE_EVERY_S:
            self._live.update(build_table(conductor, self._metric), refresh=True)
            self._shown_at = time.monotonic()

    def _tell_news(self, conductor: Conductor) -> None:
        for trial in conductor.trials.values():
            now = (trial.state, len(trial.curve))
            if now != self._seen.get(trial.id) and trial.state != "waiting":
                self._print(trial_line(trial, self._metric, conductor.left_s(trial)))
            self._seen[trial.id] = now

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def build_table(conductor: Conductor, metric: str) -> Table:
    """Lay the trials out: those that run, then the others, newest first."""
    trials = conductor.trials
    best = choose_winner(trials.values(), metric)
    paths = searched([trial.params for trial in trials.values()])
    table = Table(box=None, pad_edge=False)
    columns = ("trial", *(path.rpartition(".")[2].replace("_", " ") for path in paths))
    for name in (*columns, "epoch", metric, "state", "time left"):
        table.add_column(name, justify="left" if name in ("trial", "state") else "right")
    order = sorted(trials.values(), key=lambda trial: (trial.state != "running", -list(trials).index(trial.id)))
    for trial in order[:_MAX_ROWS]:
        table.add_row(
            trial.id,
            *(format_value(trial.params[path]) if path in trial.params else "-" for path in paths),
            f"{trial.done_epochs}/{trial.epochs}",
            _value(trial, metric),
            trial.state,
            _left(conductor.left_s(trial)),
            style="bold" if best is not None and trial.id == best.id else None,
        )
    hidden = len(order) - _MAX_ROWS
    if hidden > 0:
        table.caption = f"and {hidden} more"
    return table


def trial_line(trial: Trial, metric: str, left_s: float | None) -> str:
    """Put a trial into one line."""
    parts = [f"trial {trial.id}", describe(trial.params), f"epoch {trial.done_epochs}/{trial.epochs}"]
    if trial.best:
        parts.append(f"{metric} {_value(trial, metric)}")
    parts.append(trial.state + (f": {trial.error}" if trial.state == "failed" else ""))
    if left_s is not None:
        parts.append(f"{_left(left_s)} left")
    return "  ".join(part for part in parts if part)


def summary(result: dict[str, Any], folder: Storage) -> str:
    """Close a sweep: the best config, its model, and what to type next.

    Args:
        result: The content of result.json.
        folder: The sweep's folder.
    """
    states = ", ".join(f"{count} {state}" for state, count in result["trial_states"].items())
    lines = [
        f"sweep    {result['name']}: {result['trials']} trials ({states}), {format_duration(result['wall_s'])} in all",
        f"best     trial {result['best_trial']}: {describe(result['best_params'])}",
        f"         {result['metric']} {result['best_value']:.4f} in epoch {result['best']['epoch']}"
        + (", then trained anew on train and validation together" if result["refit"] else ""),
        *_seed_lines(result),
        f"final    {format_metrics(result['final'])}",
        f"folder   {folder}",
        f"package  {result['package']}",
        *([f"version  {result['registered']}"] if "registered" in result else []),
        f"report   {folder / 'report.html'}",
        f"next     rayft predict {folder} PICTURE",
        *(f"note     {notice}" for notice in result.get("notices", [])[-1:] if "uncertain" in notice),
    ]
    if result.get("already_finished"):
        lines.insert(
            0,
            f"The sweep {result['name']!r} had finished before; nothing was changed "
            "(--trials +8 extends it, --fresh starts anew).",
        )
    return "\n".join(lines)


def _seed_lines(result: dict[str, Any]) -> list[str]:
    lines = []
    for each in result["seeds"]:
        interval = f", 95% interval {each['low']:.4f} to {each['high']:.4f}" if each["low"] is not None else ""
        lines.append(f"         trial {each['trial']}: mean {each['mean']:.4f} over {each['seeds']} seeds{interval}")
    return lines


def _value(trial: Trial, metric: str) -> str:
    value = trial.metric(metric)
    return "-" if value is None else f"{value:.4f}"


def _left(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)
