"""Where the time goes between the command and the first training step."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cases import BATCH_SIZE, PICTURES
from rounds import HERE

SIDE = 96
FIRST_STEP_WITHIN_S = 300
# What a phase ends with: the first import of a module, or what the step itself says.
RAYFT_PHASES = {
    "command line": "rayft.distributed.run",
    "data check": "phase:starting Ray",
    "Ray": "phase:waiting for workers",
    "worker start": "tensorflow",
    "TensorFlow import, strategy": "rayft.learn.session",
    "network": "first_step",
    "to first trace": "trace",
    "first step": "step",
}
BARE_PHASES = {"TensorFlow import": "imported", "data": "data", "network": "built", "first step": "step"}


def measure_startup(worker_counts: list[int], rounds: int) -> list[dict[str, Any]]:
    """Start every side in turn; returns one record a start, then the ratios to the bare script."""
    records = []
    for index in range(rounds):
        for workers in worker_counts:
            records.append({"side": f"rayft, {workers} workers", "round": index, **_start_rayft(workers)})
        records.append({"side": "bare", "round": index, **_start_bare()})
    return records + [
        _divide(records, f"rayft, {workers} workers", measure)
        for workers in worker_counts
        for measure in ("seconds", "peak_bytes")
    ]


def _divide(records: list[dict[str, Any]], side: str, measure: str) -> dict[str, Any]:
    """Return the ratio of a side to the bare script, round by round."""
    own, bare = ([record[measure] for record in records if record["side"] == name] for name in (side, "bare"))
    values = [mine / theirs for mine, theirs in zip(own, bare, strict=True)]
    spread = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {"ratio": f"{side} / bare, {measure}", **spread, "rounds": len(values)}


def _start_rayft(workers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rayft-speed-") as folder:
        config = {
            "name": "startup",
            "storage": folder,
            "data": {"source": PICTURES, "image_size": SIDE, "global_batch_size": BATCH_SIZE},
            "model": {"backbone": "mobilenetv2", "weights": "none"},
            "train": {"epochs": 1, "step": "first_step:train_step"},
            "cluster": {"workers": workers, "cpus_per_worker": len(os.sched_getaffinity(0)) / workers},
        }
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "rayft", "train", str(path), "--fresh"]
        return _time_start(command, Path(folder) / "stamps.jsonl", workers, RAYFT_PHASES)


def _start_bare() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rayft-speed-") as folder:
        command = [sys.executable, str(HERE / "bare_keras.py"), PICTURES, str(SIDE), str(BATCH_SIZE)]
        return _time_start(command, Path(folder) / "stamps.jsonl", 1, BARE_PHASES)


def _time_start(command: list[str], stamps: Path, steps: int, phases: dict[str, str]) -> dict[str, Any]:
    """Run a command until ``steps`` processes have done their first step, then stop it.

    Returns:
        seconds, phases (seconds each) and peak_bytes (of the largest of its processes).
    """
    path = os.pathsep.join([str(HERE / "stamps"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "RAYFT_STAMPS": str(stamps), "TF_CPP_MIN_LOG_LEVEL": "2"}
    started = time.time()
    process = subprocess.Popen(
        command, env=environment, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines: list[str] = []
    said: list[dict[str, Any]] = []

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip())
            said.append({"event": f"phase:{line.strip()}", "time": time.time(), "pid": 0})

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    peak = 0
    try:
        while sum(stamp["event"] == "step" for stamp in _read(stamps)) < steps:
            if process.poll() is not None or time.time() - started > FIRST_STEP_WITHIN_S:
                raise SystemExit(f"{' '.join(command)} took no step:\n" + "\n".join(lines[-15:]))
            peak = max(peak, *(_peak_bytes(pid) for pid in _family(process.pid)))
            time.sleep(0.1)
        peak = max(peak, *(_peak_bytes(pid) for pid in _family(process.pid)))
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        process.kill()
        process.wait()
        listener.join()
    events = _read(stamps) + said
    return {"seconds": _last(events, "step") - started, "phases": _split(events, phases, started), "peak_bytes": peak}


def _split(events: list[dict[str, Any]], phases: dict[str, str], started: float) -> dict[str, float]:
    """Return the seconds of each phase; of several workers the last one counts."""
    ends = {name: _last(events, event) for name, event in phases.items()}
    lengths, before = {}, started
    for name, end in ends.items():
        lengths[name] = round(end - before, 2)
        before = end
    return lengths


def _last(events: list[dict[str, Any]], name: str) -> float:
    """Return when the last process came to an event; each process counts with its first time."""
    first: dict[int, float] = {}
    for event in events:
        if event["event"] == name:
            first.setdefault(event["pid"], event["time"])
    if not first:
        raise SystemExit(f"No process came to {name!r}; the phases in startup.py no longer fit.")
    return max(first.values())


def _read(stamps: Path) -> list[dict[str, Any]]:
    text = stamps.read_text() if stamps.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _family(root: int) -> Iterator[int]:
    """Yield a process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting.extend(parents.get(pid, []))


def _peak_bytes(pid: int) -> int:
    """Return the largest resident size that a process ever had; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(sizes[0]) * 1024 if sizes else 0
