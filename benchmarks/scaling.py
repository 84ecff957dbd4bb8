"""Time of a step on 1, 2 and 4 hosts of their own at several bandwidths, and the model that is fitted to it.

    python benchmarks/scaling.py measure --out FILE    # needs root: it makes network namespaces
    python benchmarks/scaling.py fit FILE              # constants, and how far the model is off

Hosts share the cores of one machine; the model knows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scaling_model import Run, errors, errors_unseen, fit

if TYPE_CHECKING:
    from host_cluster import Cluster

sys.path.append(str(Path(__file__).parents[1] / "tests"))

WORKERS = (1, 2, 4)
MBIT = (1000, 200, 50)
DEPTHS = (3, 1)  # One epoch each.
# Few, so that the network is most of a step. Of 300 pictures 255 are trained with: an epoch has 255 steps, in which
# fall three whole spans between gates, whichever comes first.
PER_WORKER, PICTURES, STEPS = 2, 300, 255
SETTLE = 5
CONFIG = """
name: hosts{workers}
storage: '{storage}'
data: {{source: '{source}', global_batch_size: {batch}, image_size: 16}}
model: {{backbone: wide.keras, pooling: avg, hidden: [{width}], dropout: 0}}
freeze: {{schedule: [{phases}]}}
prefix_cache: {{mode: "off"}}
train: {{epochs: {epochs}, step: "own_steps:gated"}}
cluster: {{address: '{address}', workers: {workers}, cpus_per_worker: 1.6}}
"""


def measure(workers: int) -> Iterator[dict]:
    """Train on so many hosts; yields the seconds of each steady step at each depth and bandwidth."""
    from host_cluster import cluster, pictures
    from own_steps import GATE
    from running import steps_log
    from wide_backbone import HEAD_WIDTH, TRAINABLE_BYTES, write_backbone

    with tempfile.TemporaryDirectory() as folder:
        write_backbone(Path(folder) / "wide.keras")
        backbone = (Path(folder) / "wide.keras").read_bytes()
    names = tuple(f"host{number}" for number in range(workers))
    with cluster(names, cpus=2, files={"wide.keras": backbone}) as hosts:
        hosts.write("data/pictures.parquet", pictures(PICTURES * PER_WORKER * workers))
        text = CONFIG.format(
            workers=workers,
            storage=hosts.bucket.uri(""),
            source=hosts.bucket.uri("data/pictures.parquet"),
            batch=PER_WORKER * workers,
            width=HEAD_WIDTH,
            phases=", ".join(f"{{epoch: {epoch}, depth: {depth}}}" for epoch, depth in enumerate(DEPTHS)),
            epochs=len(DEPTHS),
            address=hosts.address,
        )
        limits = _train(hosts, text, range(0, len(DEPTHS) * STEPS, GATE))
        times = {step: at for at, _, _, step in steps_log(hosts.head.file("."))}
    for epoch, depth in enumerate(DEPTHS):
        first, end = epoch * STEPS, (epoch + 1) * STEPS
        # One worker alone sends nothing, whatever its wire.
        for mbit in MBIT if workers > 1 else (None,):
            yield {
                "workers": workers,
                "depth": depth,
                "trainable_bytes": TRAINABLE_BYTES[depth],
                "mbit": mbit,
                "steps_s": [
                    round(times[step + 1] - times[step], 5)
                    for gate, limit in limits.items()
                    # Neither one that ends at a gate, nor the last of an epoch, after which it is judged.
                    for step in range(gate + SETTLE, gate + GATE - 1)
                    if mbit in (None, limit) and first + SETTLE <= step < end - 1
                ],
            }


def _train(hosts: Cluster, text: str, gates: range) -> dict[int, int]:
    """Train with another bandwidth behind each gate; returns which."""
    from hosts import PATIENCE_S

    process = hosts.rayft(hosts.head, "train", text)
    limits = {}
    try:
        for number, gate in enumerate(gates):
            hosts.wait_at_gate(gate, process)
            limits[gate] = MBIT[number % len(MBIT)]
            for host in hosts.hosts:
                host.limit(limits[gate])
            hosts.open_gate(gate)
        if process.wait(PATIENCE_S) != 0:
            raise SystemExit(hosts.head.file("out.txt").read_text())
    except AssertionError:
        print(hosts.head.file("out.txt").read_text(), file=sys.stderr)
        raise
    return limits


def read_runs(lines: list[dict]) -> list[Run]:
    """Take the median of what ``measure`` found, in whole tenths of a millisecond as tables show it."""
    return [
        Run(
            line["workers"],
            line["trainable_bytes"],
            math.inf if line["mbit"] is None else line["mbit"] * 1e6 / 8,
            round(statistics.median(line["steps_s"]), 4),
            f"depth {line['depth']}",
        )
        for line in lines
    ]


def report(runs: list[Run], cores: int) -> list[str]:
    """Return the constants, each run with what the model says of it, and the errors, as docs/scaling.md has them."""
    fitted = fit(runs, cores)
    said = [f"- {name}: {1e3 * seconds:.1f} ms to compute" for name, seconds in fitted.compute_s.items()]
    said.append(
        f"- {1e3 * fitted.wire.hop_s:.2f} ms a hop, {1e9 * fitted.wire.copy_s_per_byte:.2f} ns to handle a byte"
    )
    said += [
        "",
        "| hosts | freeze depth | gradients | wire | measured | model | off by |",
        "|---|---|---|---|---|---|---|",
    ]
    for run, error in zip(runs, errors(fitted, runs), strict=True):
        wire = "none" if math.isinf(run.bytes_per_s) else f"{run.bytes_per_s * 8 / 1e6:.0f} Mbit/s"
        said.append(
            f"| {run.workers} | {run.compute.removeprefix('depth ')} | {run.trainable_bytes:,} B | {wire} "
            f"| {1e3 * run.step_s:.1f} ms | {1e3 * run.step_s * (1 + error):.1f} ms | {100 * error:+.0f} % |"
        )
    said.append("")
    for what, found in (
        ("All runs fitted", errors(fitted, runs)),
        ("Each bandwidth left out", errors_unseen(runs, cores)),
    ):
        sizes = sorted(map(abs, found))
        said.append(
            f"- {what}: off by {100 * statistics.median(sizes):.1f} % (median), {100 * sizes[-1]:.1f} % (largest)"
        )
    return said


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--out", type=Path, required=True)
    measuring.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    fitting = commands.add_parser("fit")
    fitting.add_argument("file", type=Path)
    fitting.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if arguments.command == "measure":
        for workers in arguments.workers:
            for line in measure(workers):
                shown = {**line, "steps_s": f"{statistics.median(line['steps_s'])}, median of {len(line['steps_s'])}"}
                print(json.dumps(shown), flush=True)
                with arguments.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    else:
        lines = [json.loads(line) for line in arguments.file.read_text().splitlines()]
        print("\n".join(report(read_runs(lines), arguments.cores)))


if __name__ == "__main__":
    main()
