"""Speed of rayft as ratios, each taken in one run: ``python benchmarks/speed.py MEASUREMENT``."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from cases import BATCH_SIZE, NETWORKS, TORCH_FROZEN_BLOCKS, make_config
from rounds import HERE, Ratio, Spec, Turn, free_addresses, ratio, take_turns
from setting import Setting
from startup import measure_startup

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="JSON lines are appended here.")]
Rounds = Annotated[int, typer.Option(help="Turns of each side; the warm one is not counted.", min=1)]
Epochs = Annotated[int, typer.Option(help="Epochs of a turn.", min=1)]
Steps = Annotated[int, typer.Option(help="Steps of an epoch, where the pictures lie in memory.", min=1)]
Cores = Annotated[str, typer.Option(help="Cores that the processes are pinned to, such as 0,1.")]
Cases = Annotated[list[str] | None, typer.Option("--case", help=f"One of {', '.join(NETWORKS)}; may be repeated.")]

ALL_CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))))
TWO_CORES = ",".join(ALL_CORES.split(",")[:2])
RESULTS = Path("benchmarks/results.jsonl")


@app.command()
def epoch(
    out: Out = RESULTS,
    rounds: Rounds = 7,
    epochs: Epochs = 2,
    steps: Steps = 20,
    cores: Cores = ALL_CORES,
    case: Cases = None,
    source: Annotated[list[str] | None, typer.Option(help="memory or encoded; both if not given.")] = None,
    jit_rounds: Annotated[int, typer.Option(help="Turns of model.fit as compiled by default; 0 leaves it out.")] = 1,
) -> None:
    """One epoch of rayft's loop against one of Keras' model.fit: time and peak memory."""
    pinned = _cores(cores)
    for name in case or ["lite0-frozen-128", "lite0-third-96", "mobilenetv2-third-96"]:
        for kind in source or ["memory", "encoded"]:
            with tempfile.TemporaryDirectory(prefix="rayft-speed-") as folder:
                base = _setting(name, kind, pinned, Path(folder) / "data", steps * BATCH_SIZE)
                specs = [
                    Spec("rayft", "rayft_side.py", (dataclasses.replace(base, workers=free_addresses(1)),)),
                    Spec("fit", "keras_side.py", (base,)),
                ]
                if jit_rounds:
                    default = dataclasses.replace(base, jit_compile="auto")
                    specs.append(Spec("fit, jit default", "keras_side.py", (default,), max_rounds=jit_rounds))
                turns, details = take_turns(specs, rounds=rounds, epochs=epochs)
            _require_same_trainable(details)
            others = [spec.name for spec in specs[1:]]
            ratios = [
                ratio(turns, "rayft", other, measure)
                for other in others
                for measure in ("ms_per_step", "cpu_ms_per_example", "peak_bytes")
            ]
            _report(
                out, {"measurement": "epoch", "case": name, "source": kind, "cores": pinned}, turns, details, ratios
            )


@app.command()
def torch(
    torch_python: Annotated[str, typer.Option(help="Interpreter of an environment with torch and numpy.")],
    out: Out = RESULTS,
    rounds: Rounds = 7,
    epochs: Epochs = 2,
    steps: Steps = 20,
    cores: Cores = ALL_CORES,
    case: Cases = None,
) -> None:
    """One epoch of rayft's loop against an eager PyTorch loop on the same architecture, pictures in memory."""
    pinned = _cores(cores)
    for name in case or list(TORCH_FROZEN_BLOCKS):
        with tempfile.TemporaryDirectory(prefix="rayft-speed-") as folder:
            base = _setting(name, "memory", pinned, Path(folder) / "data", steps * BATCH_SIZE)
            theirs = dataclasses.replace(base, frozen_blocks=TORCH_FROZEN_BLOCKS[name])
            specs = [
                Spec("rayft", "rayft_side.py", (dataclasses.replace(base, workers=free_addresses(1)),)),
                Spec("torch", "torch_side.py", (theirs,), python=torch_python),
                Spec("fit", "keras_side.py", (base,)),
            ]
            turns, details = take_turns(specs, rounds=rounds, epochs=epochs)
        _require_same_trainable(details)
        ratios = [
            ratio(turns, "rayft", "torch", "ms_per_step"),
            ratio(turns, "rayft", "torch", "cpu_ms_per_example"),
            ratio(turns, "torch", "fit", "ms_per_step"),
        ]
        _report(out, {"measurement": "torch", "case": name, "cores": pinned}, turns, details, ratios)


@app.command()
def allocator(
    out: Out = RESULTS,
    rounds: Rounds = 5,
    epochs: Epochs = 1,
    steps: Steps = 12,
    cores: Cores = ALL_CORES,
    case: Cases = None,
) -> None:
    """One epoch of rayft's loop where glibc keeps what a step frees, as an embedded Ray has it, against one without."""
    pinned = _cores(cores)
    for name in case or ["lite0-all-160", "lite0-third-96", "mobilenetv2-third-96"]:
        with tempfile.TemporaryDirectory(prefix="rayft-speed-") as folder:
            base = _setting(name, "memory", pinned, Path(folder) / "data", steps * BATCH_SIZE)
            kept, returned = ((dataclasses.replace(base, workers=[place]),) for place in free_addresses(2))
            specs = [
                Spec("kept", "rayft_side.py", kept),
                Spec("returned", "rayft_side.py", returned, environment=dict(os.environ)),
            ]
            turns, details = take_turns(specs, rounds=rounds, epochs=epochs)
        ratios = [
            ratio(turns, "kept", "returned", measure) for measure in ("ms_per_step", "cpu_ms_per_example", "peak_bytes")
        ]
        _report(out, {"measurement": "allocator", "case": name, "cores": pinned}, turns, details, ratios)


@app.command()
def scaling(
    out: Out = RESULTS,
    rounds: Rounds = 7,
    epochs: Epochs = 2,
    steps: Steps = 12,
    cores: Cores = TWO_CORES,
    case: Cases = None,
) -> None:
    """Two workers with a core each against one worker with one core; no Ray, TF_CONFIG alone."""
    pinned = _cores(cores)
    if len(pinned) != 2:
        raise typer.BadParameter(f"--cores is {cores!r}; scaling takes two cores, such as 0,1.")
    for name in case or ["mobilenetv2-third-96", "mobilenetv2-third-160"]:
        with tempfile.TemporaryDirectory(prefix="rayft-speed-") as folder:
            specs = _scaling_specs(name, pinned, Path(folder), steps)
            turns, details = take_turns(specs, rounds=rounds, epochs=epochs)
        one = "1 worker"
        ratios = [
            ratio(turns, above, one, "examples_per_s", f"{above}: throughput / {one}")
            for above in [spec.name for spec in specs[1:]]
        ]
        _report(out, {"measurement": "scaling", "case": name, "cores": pinned}, turns, details, ratios)


@app.command()
def startup(
    out: Out = RESULTS,
    rounds: Annotated[int, typer.Option(help="Starts of each side.", min=1)] = 3,
    workers: Annotated[list[int] | None, typer.Option(help="Worker counts; 1 and 2 if not given.")] = None,
) -> None:
    """Seconds from the command to the end of the first step: `rayft train` against a bare Keras script."""
    records = measure_startup(workers or [1, 2], rounds)
    _write(out, [{"measurement": "startup", **_machine()}, *records])
    for record in records:
        if "phases" in record:
            phases = "  ".join(f"{name} {seconds:.1f}" for name, seconds in record["phases"].items())
            print(
                f"{record['side']:<18} round {record['round']}  {record['seconds']:6.1f} s  "
                f"peak {record['peak_bytes'] / 2**20:.0f} MiB  [{phases}]"
            )
        else:
            print(Ratio(record["ratio"], record["median"], record["low"], record["high"], record["rounds"]))


def _scaling_specs(case: str, cores: list[int], folder: Path, steps: int) -> list[Spec]:
    """The sides of ``scaling``: one worker, two workers, and two that do not talk."""
    setting = _setting(case, "memory", [cores[0]], folder / "data", 2 * steps * BATCH_SIZE)

    def group(global_batch_size: int, used: list[int], together: bool) -> tuple[Setting, ...]:
        config = make_config(case, cpus_per_worker=1, global_batch_size=global_batch_size)
        places = free_addresses(len(used))
        return tuple(
            dataclasses.replace(
                setting,
                config=config,
                cores=[core],
                rank=rank if together else 0,
                workers=places if together else [places[rank]],
            )
            for rank, core in enumerate(used)
        )

    half = BATCH_SIZE // 2
    sides = {
        "1 worker": group(BATCH_SIZE, cores[:1], True),
        f"2 workers, {BATCH_SIZE} each": group(2 * BATCH_SIZE, cores, True),
        f"2 workers, {half} each": group(BATCH_SIZE, cores, True),
        f"2 strangers, {BATCH_SIZE} each": group(BATCH_SIZE, cores, False),
        f"2 strangers, {half} each": group(half, cores, False),
    }
    return [Spec(name, "rayft_side.py", settings) for name, settings in sides.items()]


def _setting(case: str, source: str, cores: list[int], folder: Path, pictures: int) -> Setting:
    """Return the setting of a case; decodes its pictures where they are to lie in memory."""
    if case not in NETWORKS:
        raise typer.BadParameter(f"--case is {case!r}; {', '.join(NETWORKS)} are allowed.")
    if source not in ("memory", "encoded"):
        raise typer.BadParameter(f"--source is {source!r}; memory and encoded are allowed.")
    config = make_config(case, cpus_per_worker=len(cores))
    if source == "memory":
        command = [sys.executable, str(HERE / "decode.py"), json.dumps(config), str(pictures), str(folder)]
        subprocess.run(command, check=True, cwd=HERE.parent, stderr=subprocess.DEVNULL)
    return Setting(config=config, data=str(folder), source=source, cores=cores)


def _require_same_trainable(details: dict[str, list[dict[str, Any]]]) -> None:
    counts = {name: parts[0]["trainable"] for name, parts in details.items()}
    if len(set(counts.values())) != 1:
        raise SystemExit(f"The sides train different numbers of weights: {counts}")


def _cores(text: str) -> list[int]:
    return [int(core) for core in text.split(",")]


def _report(
    out: Path,
    conditions: dict[str, Any],
    turns: list[Turn],
    details: dict[str, list[dict[str, Any]]],
    ratios: list[Ratio],
) -> None:
    """Print a measurement, and append it to the file."""
    print("\n" + "  ".join(f"{name}: {value}" for name, value in conditions.items()))
    for side, parts in details.items():
        own = [turn for turn in turns if turn.side == side]
        speed = sorted(turn.examples_per_s for turn in own)[len(own) // 2]
        step = sorted(turn.ms_per_step for turn in own)[len(own) // 2]
        size = parts[0].get("all_reduced_bytes", 0) if len(parts) > 1 and parts[0]["examples"] else 0
        print(f"  {side:<24} {speed:9.1f} examples/s  {step:8.1f} ms/step  {size / 2**20:6.2f} MiB all-reduced/step")
    print(f"  {'ratio':<58} median      min .. max")
    for each in ratios:
        print(f"  {each}")
    _write(
        out,
        [
            {**conditions, **_machine(), "details": details},
            *({**conditions, **dataclasses.asdict(turn)} for turn in turns),
            *({**conditions, "ratio": each.name, **dataclasses.asdict(each)} for each in ratios),
        ],
    )


def _write(out: Path, lines: Iterable[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE, check=False
    )
    return {
        "cpu": cpu[0].split(":")[1].strip() if cpu else platform.processor(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in ("tensorflow", "keras", "ray")},
        "commit": commit.stdout.strip(),
    }


if __name__ == "__main__":
    app()
