"""What each strategy is worth on the demo data: test accuracy over several seeds, and CPU time."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import typer

BASE = {
    "data": {"source": "examples/data/pictures.parquet", "image_size": 96, "columns": {"group": "identity"}},
    "model": {"backbone": "efficientnet_lite0", "weights": "imagenet"},
    "train": {"epochs": 10},
}
# The last three blocks train: the smallest part of the network that fine-tuning can use here.
BLOCKS = {"freeze": {"depth": 15}}
STRATEGIES: dict[str, dict[str, Any]] = {
    "head alone": {},
    "head alone, dropout 0.5, 60 epochs": {"model": {"dropout": 0.5}, "train": {"epochs": 60}},
    "random weights, all blocks": {"model": {"weights": "none"}, "freeze": {"depth": 0}},
    "last three blocks": BLOCKS,
    "+ horizontal flip and crop": {**BLOCKS, "data": {"augment": {"horizontal_flip": True, "crop": 0.2}}},
    "+ RandAugment": {**BLOCKS, "data": {"augment": {"policy": "randaugment"}}},
    "+ MixUp": {**BLOCKS, "data": {"augment": {"mixup": 0.2}}},
    "+ CutMix": {**BLOCKS, "data": {"augment": {"cutmix": 1.0}}},
    "+ label smoothing 0.1": {**BLOCKS, "train": {"label_smoothing": 0.1}},
    "+ balanced class weights": {**BLOCKS, "train": {"class_weights": "balanced"}},
    "+ head first, 3 epochs": {"freeze": {"depth": 15, "head_first_epochs": 3}},
    "+ layer decay 0.75": {**BLOCKS, "optim": {"layer_decay": 0.75}},
    "+ one cycle": {**BLOCKS, "optim": {"schedule": "one_cycle"}},
    "+ L2-SP": {**BLOCKS, "train": {"l2_sp": {"alpha": 0.01, "beta": 0.01}}},
    "+ EMA 0.99": {**BLOCKS, "train": {"ema": {"decay": 0.99}}},
    "+ SWA": {**BLOCKS, "train": {"swa": {"start_fraction": 0.5}}, "optim": {"schedule": "constant"}},
    "+ SAM 0.05": {**BLOCKS, "optim": {"sam": {"rho": 0.05}}},
    "LoRA, rank 4": {"model": {"adapter": {"kind": "lora", "rank": 4}}},
    "biases and normalisation": {"model": {"adapter": {"kind": "bias", "norm": True}}},
}
# 97.5 % quantiles of Student's t, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def main(
    seeds: Annotated[int, typer.Option(min=2, max=10, help="Runs of each strategy.")] = 5,
    strategy: Annotated[list[str] | None, typer.Option(help="Part of a name; all if not given.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Runs at once, a CPU each.")] = 2,
    out: Annotated[Path, typer.Option(help="JSON lines are appended here.")] = Path("benchmarks/strategies.jsonl"),
) -> None:
    """Train every strategy with every seed, in processes that stay, and print a table.

    Runs that the file holds already are not taken again, so that a long measurement may be broken off.
    """
    wanted = [name for name in STRATEGIES if not strategy or any(part in name for part in strategy)]
    runs = read_runs(out)
    left = [(name, seed) for seed in range(seeds) for name in wanted if seed not in runs.get(name, {})]
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="rayft-strategies-") as storage,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
    ):
        jobs = {pool.submit(run, name, seed, storage): name for name, seed in left}
        for done, job in enumerate(as_completed(jobs), 1):
            if job.exception() is not None:
                # The other runs would go on, and nobody would note what comes of them.
                pool.shutdown(wait=False, cancel_futures=True)
            print(f"{done}/{len(jobs)} {jobs[job]}: {job.result()}", file=sys.stderr)
            with out.open("a") as file:
                file.write(json.dumps({"strategy": jobs[job], **job.result()}) + "\n")
    runs = read_runs(out)
    print("| strategy | test accuracy | 95 % interval | CPU seconds |\n|---|---|---|---|")
    for name in wanted:
        print(row(name, [runs[name][seed] for seed in range(seeds)]))


def read_runs(out: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Return the runs of a file by strategy and seed."""
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for line in out.read_text().splitlines() if out.exists() else []:
        found = json.loads(line)
        runs.setdefault(found["strategy"], {})[found["seed"]] = found
    return runs


def run(name: str, seed: int, storage: str) -> dict[str, float]:
    """Train one strategy with one seed in this process; its prefix cache is shared with the others."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    from rayft.config import parse_config
    from rayft.data.dataset import open_dataset
    from rayft.learn.place import Place
    from rayft.learn.session import run_session
    from rayft.runs import RunFolder

    keras.backend.clear_session()
    slug = "".join(letter if letter.isalnum() else "-" for letter in name)
    tree = {"name": f"run-{slug}-{seed}", "seed": seed, "storage": storage, **merged(BASE, STRATEGIES[name])}
    config = parse_config(tree)
    RunFolder.of(config).begin(config, fresh=True)
    started, used = time.perf_counter(), time.process_time()
    place = Place(0, 1, lambda value: value, lambda: None)
    result = run_session(config, open_dataset(config), place, lambda state: False, tf.distribute.get_strategy())
    assert result is not None
    return {
        "seed": seed,
        "test_accuracy": result["final"]["test_accuracy"],
        # Of this process with all its threads; unlike wall time, it does not grow when other programs run.
        "cpu_s": round(time.process_time() - used, 1),
        "training_s": result["timing_s"]["training steps"],
        "all_s": round(time.perf_counter() - started, 1),
    }


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` laid over it, section by section."""
    tree = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(tree.get(key), dict)
        tree[key] = merged(tree[key], value) if both else value
    return tree


def row(name: str, found: list[dict[str, float]]) -> str:
    """Put one strategy into a line of the table: mean, t-interval over seeds, median CPU time of a whole run."""
    values = [each["test_accuracy"] for each in found]
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    mean, seconds = statistics.mean(values), statistics.median(each["cpu_s"] for each in found)
    return f"| {name} | {mean:.3f} | {mean - half:.3f} to {mean + half:.3f} | {seconds:.0f} |"


if __name__ == "__main__":
    typer.run(main)
