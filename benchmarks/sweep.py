"""A sweep end to end, rayft against Ray Tune with ``model.fit``: ``python benchmarks/sweep.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rounds import HERE, worker_environment
from speed import RESULTS, Out, _machine, _write

# EfficientNet-Lite0 has 18 blocks: its last three boundaries, and all.
DEPTHS: list[int | str] = [15, 16, 17, "all"]
RATES = [3e-4, 1e-3, 3e-3, 1e-2]


def make_config(depths: list[Any], rates: list[float], epochs: int, side: int, storage: str) -> dict[str, Any]:
    """Return the sweep as rayft takes it; a trial has one worker with one CPU on either side."""
    return {
        "name": "sweep",
        "storage": storage,
        "data": {
            "source": str(HERE.parent / "examples/data/pictures.parquet"),
            "image_size": side,
            "columns": {"group": "identity"},
        },
        "freeze": {"batch_norm": "frozen"},
        "optim": {"warmup_fraction": 0.0},
        "train": {"epochs": epochs},
        "cluster": {"workers": 1, "cpus_per_worker": 1},
        "sweep": {
            "searcher": "grid",
            "scheduler": "none",
            "trials": len(depths) * len(rates),
            "space": {"freeze.depth": {"grid": depths}, "optim.learning_rate": {"grid": rates}},
        },
    }


def time_rayft(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the sweep from the command line, with nothing cached; it packages and tests its best trial as well."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    out, seconds = _timed([sys.executable, "-m", "rayft", "sweep", str(path), "--fresh", "--json"])
    result = json.loads(out)
    return {
        "side": "rayft",
        "seconds": seconds,
        "trials": result["trials"],
        "accuracy": result["best_value"],
        "best": result["best_params"],
        "prefix_cache": result["prefix_cache"],
    }


def time_tune(config: dict[str, Any], depths: list[Any], rates: list[float], storage: str) -> dict[str, Any]:
    """Run every combination with ``model.fit`` under Ray Tune."""
    tree = {name: value for name, value in config.items() if name not in ("sweep", "storage", "name")}
    cpus = len(os.sched_getaffinity(0))
    setting = {"config": tree, "depths": depths, "rates": rates, "storage": storage, "cpus": cpus}
    out, seconds = _timed([sys.executable, str(HERE / "tune_fit_side.py"), json.dumps(setting)])
    return {"side": "tune, model.fit", "seconds": seconds, **json.loads(out.splitlines()[-1])}


def time_bound(config: dict[str, Any], depths: list[Any], rates: list[float]) -> dict[str, Any]:
    """Measure what no sweep can do without, a process a core side by side: prefix pass and suffixes, no overhead."""
    cores = sorted(os.sched_getaffinity(0))
    tree = {name: value for name, value in config.items() if name not in ("sweep", "name")}
    tree["freeze"] = {**tree["freeze"], "depth": "all"}
    running, environment = [], worker_environment()
    for rank, core in enumerate(cores):
        setting = {"config": tree, "depths": depths, "share": [rank, len(cores)], "cores": [core]}
        line = [sys.executable, str(HERE / "prefix_side.py"), "bound", json.dumps(setting)]
        running.append(subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, env=environment))
    answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    prefix_s = max(answer["prefix"]["seconds"] for answer in answers)
    # Each process timed one trial of each depth; the others take as long.
    suffix_s = sum(each["seconds"] for answer in answers for each in answer["suffixes"]) / len(cores)
    seconds = prefix_s + suffix_s * len(rates) / len(cores)
    trials = len(depths) * len(rates)
    return {"side": "bound", "seconds": seconds, "trials": trials, "accuracy": None, "prefix_s": prefix_s}


def main(
    out: Out = RESULTS,
    rounds: Annotated[int, typer.Option(help="Sweeps of each side.", min=1)] = 1,
    epochs: Annotated[int, typer.Option(help="Epochs of a trial.", min=1)] = 10,
    side: Annotated[int, typer.Option(help="Side of the pictures, pixels.", min=32)] = 224,
    depths: Annotated[int, typer.Option(help="Freeze depths, the deepest first.", min=1, max=len(DEPTHS))] = 4,
    rates: Annotated[int, typer.Option(help="Learning rates.", min=1, max=len(RATES))] = 4,
    against: Annotated[
        str, typer.Option(help="tune (model.fit in each trial) or bound (the least to compute).")
    ] = "tune",
) -> None:
    """Compare wall time from the command to the end; the sides take turns."""
    chosen, speeds = DEPTHS[-depths:], RATES[:rates]
    records = []
    for number in range(rounds):
        for which in ("rayft", against):
            with tempfile.TemporaryDirectory(prefix="rayft-sweep-") as folder:
                config = make_config(chosen, speeds, epochs, side, folder)
                if which == "rayft":
                    record = time_rayft(config, Path(folder))
                elif which == "bound":
                    record = time_bound(config, chosen, speeds)
                else:
                    record = time_tune(config, chosen, speeds, folder)
            records.append({**record, "round": number})
            accuracy = record["accuracy"] or "-"
            print(f"{record['side']:<18} {record['seconds']:8.1f} s  {record['trials']} trials  {accuracy}")
    pairs = [(records[index], records[index + 1]) for index in range(0, len(records), 2)]
    ratios = sorted(
        ours["seconds"] / theirs["seconds"] if against == "bound" else theirs["seconds"] / ours["seconds"]
        for ours, theirs in pairs
    )
    name = "rayft / bound" if against == "bound" else "tune / rayft"
    print(f"ratio ({name})  median {ratios[len(ratios) // 2]:.2f}  {ratios[0]:.2f} .. {ratios[-1]:.2f}")
    conditions = {
        "measurement": "sweep",
        "epochs": epochs,
        "pixels": side,
        "depths": chosen,
        "rates": speeds,
        "against": against,
    }
    _write(out, [{**conditions, **_machine()}, *records, {**conditions, "ratios": ratios}])


def _timed(command: list[str]) -> tuple[str, float]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stderr[-3000:]}")
    return done.stdout, seconds


if __name__ == "__main__":
    typer.run(main)
