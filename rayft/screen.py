"""What a person sees of a run in the terminal."""

from __future__ import annotations

import math
import re
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rayft.storage import Storage

# A person reads no faster.
_LIVE_EVERY_S = 0.2
# In a log, of an epoch or a pass that takes long; `rayft status` reads it there.
_LOG_EVERY_S = 30.0
_PROGRESS = re.compile(
    r"epoch (?P<epoch>\d+)/(?P<epochs>\d+)  step (?P<step>\d+)/(?P<steps>\d+)"
    r"(?:  phase [^ ]+, \d+ blocks frozen)?(?:  loss (?P<loss>[-\d.]+))?(?:  \S+ [-\d.]+)?"
    r"(?:  (?P<examples_per_s>[\d,]+) examples/s)?(?:  .+ left)?(?:  (?P<restarts>\d+) restarts)?"
)


class LiveLine:
    """Shows progress as one line that renews itself; off a terminal, one line per phase, epoch and half minute.

    Args:
        stream: Where to; stderr if not given.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._seen: tuple[Any, ...] = ()
        self._notices: set[str] = set()
        self._shown_at = 0.0

    def __call__(self, state: dict[str, Any]) -> None:
        """Show a progress; ``phase`` is always there, figures of the training once it runs.

        Each of its ``notices`` gets a line of its own, once, which stays.
        """
        for notice in state.get("notices", []):
            if notice not in self._notices:
                self._notices.add(notice)
                self.close()
                print(notice, file=self._stream, flush=True)
        seen = tuple(state.get(key) for key in ("phase", "workers", "done_epochs", "stage", "restarts"))
        is_news, moves = seen != self._seen, "epoch" in state or "share" in state
        if self._live and (is_news or time.monotonic() - self._shown_at > _LIVE_EVERY_S):
            # Return to the start of the line and clear it.
            print(f"\r\x1b[K{progress_line(state)}", end="", file=self._stream, flush=True)
            self._shown_at = time.monotonic()
        elif not self._live and (is_news or (moves and time.monotonic() - self._shown_at > _LOG_EVERY_S)):
            print(progress_line(state), file=self._stream, flush=True)
            self._shown_at = time.monotonic()
        self._seen = seen

    def close(self) -> None:
        """Leave the line, so that other text starts on a new one."""
        if self._live and self._seen:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def progress_line(state: dict[str, Any]) -> str:
    """Put a progress into one line."""
    parts = [state["phase"], *([f"{state['share']:.0%}"] if "share" in state else [])]
    if "workers" in state:
        parts.insert(0, _count(state["workers"], "worker"))
    if "epoch" in state:
        parts = [f"epoch {state['epoch']}/{state['epochs']}", f"step {state['step']}/{state['steps']}"]
        if "stage" in state:
            parts.append(f"phase {state['stage']}, {state['blocks_frozen']} blocks frozen")
        if math.isfinite(state["loss"]):
            parts.append(f"loss {state['loss']:.4f}")
        if state["metrics"]:
            # One is enough for a line that must fit the terminal.
            parts.append(format_metrics(dict(list(state["metrics"].items())[:1])))
        if state["examples_per_s"]:
            parts.append(f"{state['examples_per_s']:,.0f} examples/s")
        if state["left_s"] is not None:
            parts.append(f"{format_duration(state['left_s'])} left")
    if state.get("restarts"):
        parts.append(f"{state['restarts']} restarts")
    return "  ".join(parts)


def read_progress(line: str) -> dict[str, Any] | None:
    """Return the figures of a line that `progress_line` wrote of a training; None for any other line."""
    match = _PROGRESS.fullmatch(line.strip())
    if match is None:
        return None
    found = {name: text.replace(",", "") for name, text in match.groupdict().items() if text is not None}
    return {name: float(text) if name == "loss" else int(text) for name, text in found.items()}


def summary(result: dict[str, Any], folder: Storage) -> str:
    """Close a run: what came out, where it is, what to type next.

    Args:
        result: The content of result.json.
        folder: The run's folder.
    """
    best = {name: value for name, value in result["best"].items() if name not in ("epoch", "step")}
    lines = [
        f"run      {result['name']}: {result['status']}, {result['epochs']} epochs, {result['steps']} steps, "
        f"{_count(result['num_workers'], 'worker')}",
        f"best     epoch {result['best']['epoch']}: {format_metrics(best)}",
        f"final    {format_metrics(result['final'])}",
        f"speed    {result['examples_per_s']:,.0f} examples/s, {format_duration(result['wall_s'])} in all",
        *_prefix_line(result),
        f"folder   {folder}",
        f"package  {result['package']}",
        *([f"version  {result['registered']}"] if "registered" in result else []),
        f"report   {folder / 'report.html'}",
        f"next     rayft predict {folder} PICTURE",
    ]
    lines[3:3] = [f"chosen   {name} {value:g}" for name, value in result.get("chosen", {}).items()]
    # What was said at the start need not be said again.
    lines += [f"note     {notice}" for notice in result.get("notices", [])[-1:] if "uncertain" in notice]
    if result.get("already_finished"):
        lines.insert(0, f"The run {result['name']!r} had finished before; nothing was changed (--fresh starts anew).")
    return "\n".join(lines)


def _prefix_line(result: dict[str, Any]) -> list[str]:
    cache = result.get("prefix_cache")
    return [f"cache    {'used' if cache['used'] else 'not used'}: {cache['reason']}"] if cache else []


def evaluation_summary(result: dict[str, Any], output: str | None) -> str:
    """Close an evaluation.

    Args:
        result: What ``rayft.serve.evaluate.evaluate`` returns.
        output: Folder of the report, where there is one.
    """
    low, high = result["accuracy_interval"]
    lines = [
        f"data        {result['data']}: {result['split']} split, {result['examples']:,} examples",
        f"metrics     {format_metrics(result['metrics'])}",
        f"accuracy    95 % interval {low:.4f} to {high:.4f}",
        f"calibrated  {format_metrics(result['calibrated'])}, temperature {result['temperature']:.4f}",
    ]
    return "\n".join([*lines, f"report      {output}/report.html"] if output else lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_metrics(values: dict[str, Any]) -> str:
    """Return the numbers among the values, with their names."""
    shown = [f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, (int, float))]
    return ", ".join(shown) or "none"


def format_duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
