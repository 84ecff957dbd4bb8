"""Interleaved turns of processes that wait for each other: A B A B."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from setting import Setting

from rayft.distributed.allocator import allocator_environment

HERE = Path(__file__).parent
STDERR_LINES = 15


@dataclass(frozen=True)
class Spec:
    """One side of a comparison: the processes that take a turn together.

    Attributes:
        name: What the report calls it.
        script: rayft_side.py, keras_side.py or torch_side.py.
        settings: One for each process.
        python: Interpreter; this one if not given.
        max_rounds: Turns after the warm one; all of them if not given. For sides that are very slow.
        environment: Of the processes; that of rayft's own where they stand for one, else this one's.
    """

    name: str
    script: str
    settings: tuple[Setting, ...]
    python: str = sys.executable
    max_rounds: int | None = None
    environment: dict[str, str] | None = None


@dataclass(frozen=True)
class Turn:
    """What one side did in one turn, over all its processes.

    Attributes:
        side: Name of the side.
        round: Counts from 0; the warm turn is left out.
        examples_per_s: Summed over the processes.
        ms_per_step: Of the slowest process.
        cpu_ms_per_example: CPU time; unlike wall time, it does not grow when other programs run.
        peak_bytes: Largest resident size of a process so far.
    """

    side: str
    round: int
    examples_per_s: float
    ms_per_step: float
    cpu_ms_per_example: float
    peak_bytes: int


@dataclass(frozen=True)
class Ratio:
    """Quotient of two sides, over the rounds of one run."""

    name: str
    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.name:<58} {self.median:6.3f}   {self.low:6.3f} .. {self.high:6.3f}   ({self.rounds} rounds)"


class _Side:
    """The running processes of a side."""

    def __init__(self, spec: Spec, logs: Path) -> None:
        self.spec = spec
        self._errors = [logs / f"{spec.name.replace('/', '_')}-{index}.txt" for index in range(len(spec.settings))]
        self._processes: list[subprocess.Popen[str]] = []
        for setting, path in zip(spec.settings, self._errors, strict=True):
            with path.open("w") as errors:
                self._processes.append(_start(spec, setting, errors))

    def details(self) -> list[dict[str, Any]]:
        """Wait until all processes are ready; returns what each built."""
        self._details = [self._answer(index) for index in range(len(self._processes))]
        return self._details

    def turn(self, index: int, epochs: int) -> Turn:
        """Let all processes run some epochs at the same time."""
        for process in self._processes:
            print(epochs, file=process.stdin, flush=True)
        answers = [self._answer(i) for i in range(len(self._processes))]
        both = list(zip(self._details, answers, strict=True))
        examples = sum(detail["examples"] * epochs for detail in self._details)
        return Turn(
            side=self.spec.name,
            round=index,
            examples_per_s=sum(d["examples"] * epochs / a["seconds"] for d, a in both),
            ms_per_step=max(1e3 * a["seconds"] / (d["steps"] * epochs) for d, a in both),
            cpu_ms_per_example=1e3 * sum(a["cpu_s"] for a in answers) / examples,
            peak_bytes=max(a["peak_bytes"] for a in answers),
        )

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _answer(self, index: int) -> dict[str, Any]:
        line = self._processes[index].stdout.readline()  # type: ignore[union-attr]
        if not line:
            text = self._errors[index].read_text().splitlines()[-STDERR_LINES:]
            raise SystemExit(f"{self.spec.name} ended early:\n" + "\n".join(text))
        return json.loads(line)


def take_turns(specs: list[Spec], *, rounds: int, epochs: int) -> tuple[list[Turn], dict[str, list[dict[str, Any]]]]:
    """Measure all sides in one run; the first turn of each is warm-up and is not returned.

    Args:
        specs: The sides; all their processes live at the same time, one side works at a time.
        rounds: Turns of each side.
        epochs: Epochs of a turn.

    Returns:
        The turns in the order taken, and what the processes of each side said when they were ready.
    """
    with tempfile.TemporaryDirectory(prefix="rayft-speed-") as logs, contextlib.ExitStack() as stack:
        sides, details = [], {}
        for spec in specs:
            side = _Side(spec, Path(logs))
            stack.callback(side.end)
            sides.append(side)
        for side in sides:
            details[side.spec.name] = side.details()
            # Compiles; one side after the other, so that it disturbs nobody.
            side.turn(-1, 1)
            print(f"  ready: {side.spec.name}", file=sys.stderr)
        turns = []
        for index in range(rounds):
            for side in sides:
                if side.spec.max_rounds is None or index < side.spec.max_rounds:
                    turns.append(side.turn(index, epochs))
        return turns, details


def ratio(turns: list[Turn], above: str, below: str, measure: str, name: str = "") -> Ratio:
    """Divide a measure of one side by that of another, round by round.

    Args:
        turns: From ``take_turns``.
        above: Side in the numerator.
        below: Side in the denominator.
        measure: Field of ``Turn``.
        name: What the report calls it.
    """
    by_round = [{turn.round: getattr(turn, measure) for turn in turns if turn.side == side} for side in (above, below)]
    values = [by_round[0][index] / by_round[1][index] for index in sorted(by_round[0].keys() & by_round[1].keys())]
    name = name or f"{above} / {below}, {measure}"
    return Ratio(name, statistics.median(values), min(values), max(values), len(values))


def worker_environment() -> dict[str, str]:
    """Return the environment of a process that stands for one of rayft's own, as an embedded Ray starts it."""
    return {**allocator_environment(len(os.sched_getaffinity(0))), **os.environ}


def free_addresses(count: int) -> list[str]:
    """Return ``host:port`` of that many ports which are free now."""
    with _bound(count) as sockets:
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


@contextlib.contextmanager
def _bound(count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        yield sockets


def _start(spec: Spec, setting: Setting, errors: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [spec.python, str(HERE / spec.script), setting.to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=HERE.parent,
        env=spec.environment or (worker_environment() if spec.script == "rayft_side.py" else None),
    )
