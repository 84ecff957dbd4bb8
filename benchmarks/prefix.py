"""What the prefix cache saves, as ratios of one run: ``python benchmarks/prefix.py MEASUREMENT``."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from cases import BATCH_SIZE, PICTURES
from rounds import HERE, worker_environment

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)

Rounds = Annotated[int, typer.Option(help="Turns of each side.", min=1)]
Epochs = Annotated[int, typer.Option(help="Epochs of a run.", min=1)]
Side = Annotated[int, typer.Option(help="Side of the pictures, pixels.", min=32)]
Source = Annotated[str, typer.Option(help="Pictures, Parquet.")]
CORES = sorted(os.sched_getaffinity(0))


@app.command()
def frozen(rounds: Rounds = 3, epochs: Epochs = 20, side: Side = 224, source: Source = PICTURES) -> None:
    """All blocks frozen: from the first batch read to the last epoch done, cache against model.fit."""
    records: dict[str, list[dict[str, Any]]] = {"cached": [], "fit": []}
    for _ in range(rounds):
        for name, turns in records.items():
            with tempfile.TemporaryDirectory(prefix="rayft-prefix-") as folder:
                turns.append(_side(name, {"config": _config(folder, side, epochs, source)}))
    for measure in ("seconds", "cpu_s", "process_s"):
        _print_ratio(f"fit / cached, {measure}", records["fit"], records["cached"], measure)
    for name, turns in records.items():
        print(f"  {name:<8}", "  ".join(f"{key} {value:.4g}" for key, value in turns[-1].items()))


@app.command()
def command(rounds: Rounds = 1, epochs: Epochs = 20, side: Side = 224, source: Source = PICTURES) -> None:
    """The same end to end: the command `rayft train` against a process that runs model.fit."""
    ours, theirs = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="rayft-prefix-") as folder:
            path = Path(folder) / "config.yaml"
            path.write_text(yaml.safe_dump(_config(folder, side, epochs, source)))
            started = time.perf_counter()
            line = [sys.executable, "-m", "rayft", "train", str(path), "--json"]
            done = subprocess.run(line, capture_output=True, text=True, cwd=HERE.parent, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            ours.append({"seconds": time.perf_counter() - started})
            result = json.loads(done.stdout)
            print(f"  rayft    {ours[-1]['seconds']:.1f} s, {result['prefix_cache']}, {result['final']}")
        with tempfile.TemporaryDirectory(prefix="rayft-prefix-") as folder:
            started = time.perf_counter()
            figures = _side("fit", {"config": _config(folder, side, epochs, source)})
            theirs.append({"seconds": time.perf_counter() - started})
            print(f"  fit      {theirs[-1]['seconds']:.1f} s, of it {figures['seconds']:.1f} s in model.fit")
    _print_ratio("model.fit's process / rayft train, seconds", theirs, ours, "seconds")


@app.command()
def trial(rounds: Rounds = 3, epochs: Epochs = 10, side: Side = 224, depths: str = "17,16,15") -> None:
    """A light trial at a boundary that is cached already, in a process that ran others, against its suffix alone."""
    for depth in depths.split(","):
        _trial(rounds, epochs, side, int(depth) if depth.isdigit() else depth)


def _trial(rounds: int, epochs: int, side: int, depth: int | str) -> None:
    with tempfile.TemporaryDirectory(prefix="rayft-prefix-") as folder:
        config = _config(folder, side, epochs, PICTURES)
        config["freeze"]["depth"] = depth
        config["cluster"]["cpus_per_worker"] = 1
        figures = _side("trial", {"config": config, "rounds": rounds, "other": "all"})
    later = figures["sessions"][2:]
    suffix = [figures["suffix"]] * len(later)
    for measure in ("seconds", "cpu_s"):
        _print_ratio(f"depth {depth}: trial n+1 / its suffix, {measure}", later, suffix, measure)
    print(f"  first session {figures['sessions'][0]['seconds']:.1f} s, later {later[-1]['seconds']:.1f} s")


@app.command()
def forward(rounds: Rounds = 10, side: Side = 224) -> None:
    """The compiled prefix against the plain Keras forward pass of the same layers, no decoding."""
    for backbone, weights in (("efficientnet_lite0", "imagenet"), ("mobilenetv2", "none"), ("resnet50", "none")):
        config = _config(".", side, 1, PICTURES)
        config["model"] = {"backbone": backbone, "weights": weights}
        figures = _side("forward", {"config": config, "rounds": rounds})
        seconds = figures["seconds_a_batch"]
        ratios = {name: seconds[name] / seconds["prefix"] for name in ("fused", "graph", "call", "predict")}
        print(
            f"  {backbone:<20} prefix {BATCH_SIZE / seconds['prefix']:7.1f} examples/s  ",
            "  ".join(f"{name} / prefix {value:.2f}" for name, value in ratios.items()),
            f"  relative difference {figures['difference']:.1e}",
        )


@app.command()
def memory(gigabytes: float = 4.0, side: Side = 64) -> None:
    """Own memory of a process: while it reads a large cache, and while it builds caches of two sizes."""
    with tempfile.TemporaryDirectory(prefix="rayft-prefix-", dir=".") as folder:
        figures = _side("read_large", {"folder": folder, "bytes": int(gigabytes * 1e9)})
    print(
        f"  a cache of {figures['cache_bytes'] / 1e9:.2f} GB: reading adds {figures['reading_adds'] / 1e6:.0f} MB, ",
        end="",
    )
    print(f"writing {figures['writing_adds'] / 1e6:.0f} MB")
    for times in (1, 4):
        with tempfile.TemporaryDirectory(prefix="rayft-prefix-") as folder:
            config = _config(folder, side, 1, PICTURES)
            config["freeze"]["depth"] = 1
            built = _side("build_memory", {"config": config, "times": times})
        print(
            f"  building {built['examples']} examples, {built['cache_bytes'] / 1e6:.0f} MB: "
            f"own memory peaks at {built['own_peak_bytes'] / 1e6:.0f} MB"
        )


def _config(storage: str, side: int, epochs: int, source: str) -> dict[str, Any]:
    return {
        "name": "prefix",
        "storage": storage,
        "data": {
            "source": source,
            "image_size": side,
            "global_batch_size": BATCH_SIZE,
            "columns": {"group": "identity"},
        },
        "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},
        "freeze": {"depth": "all", "batch_norm": "frozen"},
        "optim": {"name": "adam", "learning_rate": 3e-3},
        "train": {"epochs": epochs},
        "prefix_cache": {"mode": "on"},
        "cluster": {"cpus_per_worker": len(CORES)},
    }


def _side(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    line = [sys.executable, str(HERE / "prefix_side.py"), name, json.dumps({"cores": CORES, **settings})]
    env = None if name == "fit" else worker_environment()
    done = subprocess.run(line, capture_output=True, text=True, cwd=HERE.parent, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _print_ratio(name: str, above: list[dict[str, Any]], below: list[dict[str, Any]], measure: str) -> None:
    values = [over[measure] / under[measure] for over, under in zip(above, below, strict=True)]
    spread = f"{statistics.median(values):6.2f}   {min(values):6.2f} .. {max(values):6.2f}"
    print(f"  {name:<44} {spread}   load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    app()
