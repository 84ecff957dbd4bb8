"""Runs of `rayft` as a person starts them, and a list of the processes that they leave."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = """
name: run
data: {source: data, global_batch_size: 16, image_size: 16}
model: {backbone: none, weights: none, pooling: flatten, hidden: [16], dropout: 0.2}
freeze: {depth: 0}
train: {epochs: 6, checkpoint_every_steps: 5, log_every_steps: 1}
cluster: {workers: 2, cpus_per_worker: 1}
"""
PATIENCE_S = 400
LOOK_S = 0.3
# They try for a minute to tell the dead cluster that it died, then end by themselves.
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


def make_home(home: Path, config: str = CONFIG) -> Path:
    """Make 234 small noisy pictures of three classes, and a config, in an empty folder."""
    random = np.random.default_rng(0)
    for label in range(3):
        folder = home / "data" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(78):
            pixels = random.integers(0, 150, (16, 16, 3), dtype=np.uint8)
            pixels[..., label] += 60
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (home / "config.yaml").write_text(config)
    return home


@dataclass
class Command:
    """One `rayft` command in a folder of its own, with every process below it that was ever seen."""

    home: Path
    process: subprocess.Popen
    suffix: str = ""
    seen: dict[int, str] = field(default_factory=dict)

    @classmethod
    def start(cls, home: Path, *arguments: str, suffix: str = "") -> "Command":
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), str(here.parent)])
        environment = {**os.environ, "HOME": str(home / "home"), "PYTHONPATH": path}
        with (home / f"out{suffix}.txt").open("w") as out, (home / f"err{suffix}.txt").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "rayft", *arguments],
                cwd=home,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,  # As a shell does: Ctrl-C goes to this group alone.
            )
        return cls(home, process, suffix)

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        self.wait_until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def wait_until(self, condition) -> None:
        """Poll until ``condition`` holds, and take note of new processes meanwhile."""
        end = time.monotonic() + PATIENCE_S
        look_at = 0.0
        while not condition():
            if time.monotonic() > look_at:
                # Reading all of /proc at every turn took a tenth of a core.
                self.look()
                look_at = time.monotonic() + LOOK_S
            assert time.monotonic() < end, f"{PATIENCE_S} s went by: {self.err}"
            time.sleep(0.05)

    def wait_for_step(self, step: int, since: int = 0) -> None:
        """Wait until a worker has begun ``step``, in the log lines from ``since`` on."""
        self.wait_until(lambda: any(line[3] >= step for line in steps_log(self.home)[since:]))
        assert self.process.poll() is None, self.err

    def ask_to_stop(self, number: signal.Signals) -> None:
        """Signal as is usual: a terminal sends Ctrl-C to the whole group, a supervisor SIGTERM to the process."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def look(self) -> None:
        """Add living descendants to those seen, each with its start time: numbers are used again."""
        children: dict[int, list[int]] = {}
        for pid, (parent, _) in _processes().items():
            children.setdefault(parent, []).append(pid)
        table, below = _processes(), [self.process.pid, *self.seen]
        while below:
            pid = below.pop()
            new = [child for child in children.get(pid, []) if child not in self.seen and child in table]
            self.seen.update({child: table[child][1] for child in new})
            below.extend(new)

    def left(self, within_s: float = 15, *, but: tuple[str, ...] = ()) -> list[str]:
        """Return the command lines of its processes that are left after a moment, those named ``but`` apart."""
        end = time.monotonic() + within_s
        while True:
            lines = {pid: _command_line(pid).strip() for pid in self._left()}
            # One that is ending has no line any more, and its sockets still.
            left = [f"{pid} {line}" for pid, line in lines.items() if not line.startswith(but or "\0")]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.2)

    def kill(self, title: str) -> int:
        """SIGKILL its processes whose title begins so; returns how many."""
        found = [pid for pid in self._left() if _command_line(pid).startswith(title)]
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return len(found)

    def clean_up(self) -> None:
        """End what is left; only processes that this command started."""
        for pid in [*self._left(), *([self.process.pid] if self.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def out(self) -> str:
        return (self.home / f"out{self.suffix}.txt").read_text()

    @property
    def err(self) -> str:
        return (self.home / f"err{self.suffix}.txt").read_text()

    def _left(self) -> list[int]:
        table = _processes()
        # Ray names its session after the process that started it.
        session = f"_{self.process.pid}/"
        named = [pid for pid in table if "/session_" in (line := _command_line(pid)) and session in line]
        remembered = [pid for pid, started in self.seen.items() if table.get(pid, (0, ""))[1] == started]
        return sorted({*named, *remembered})


def steps_log(home: Path) -> list[tuple[float, int, int, int]]:
    """Return (time, rank, process, step) for each step that `own_steps.watched` took."""
    where = home / "steps.log"
    lines = where.read_text().splitlines() if where.exists() else []
    words = [line.split() for line in lines]
    return [(float(at), int(rank), int(pid), int(step)) for at, rank, pid, step in (w for w in words if len(w) == 4)]


def worker_of(home: Path, rank: int) -> int:
    """Return the process that last took a step as ``rank``."""
    return [pid for _, its, pid, _ in steps_log(home) if its == rank][-1]


def trace(folder: Path) -> list[tuple[int, float]]:
    """Return (step, loss) of each line of metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def state(folder: Path) -> list[np.ndarray]:
    """Return the variables of the last checkpoint."""
    last = sorted((folder / "checkpoints").iterdir())[-1]
    with np.load(last / "state.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def assert_tidy(command: Command, folder: Path) -> None:
    """No process is left, and nothing in the run's folder that only a run in progress needs."""
    assert command.left() == []
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    assert "ray" not in names
    assert [name for name in names if name.startswith("stall") and not (folder / name).stat().st_size] == []
    assert [name for name in names if name.endswith(".tmp")] == []


def is_over(pid: int) -> bool:
    """Whether a process has ended; its command line goes with its memory, a moment before its sockets do."""
    return pid not in _processes()


def _processes() -> dict[int, tuple[int, str]]:
    """Return parent and start time of each living process; the dead that nobody waited for are left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            # The first thread may be dead before the others, which hold the sockets open.
            if fields[0] != "Z" or int(fields[17]) > 1:
                found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
