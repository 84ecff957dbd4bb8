"""What becomes of requests under a constant load while versions change, a replica dies, or too many come.

``python benchmarks/events.py RUN_OR_PACKAGE``; docs/serving.md says what should become of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import typer
from load import Outcome, closed_loop, family, open_loop, request
from rounds import free_addresses
from serving import PICTURES, Server
from speed import RESULTS, Out, _machine, _write

from rayft.package.golden import Golden, read_golden, write_golden
from rayft.package.seal import seal
from rayft.registry.registry import Registry

MODEL = "pictures"
SETTLING_S = 60


def main(
    package: Annotated[Path, typer.Argument(help="Folder of a package or run.")],
    out: Out = RESULTS,
    seconds: Annotated[float, typer.Option(min=10, help="Length of each load.")] = 60.0,
    pictures: Annotated[int, typer.Option(min=1, help="Different pictures that are asked.")] = 64,
) -> None:
    """Count the answers by status, for each event."""
    folder = package / "package" if (package / "package").exists() else package
    encoded = pq.read_table(PICTURES, columns=["image"])["image"].to_pylist()[:pictures]
    path = f"/v1/models/{MODEL}:predict"
    requests = [request(path, content, "application/octet-stream") for content in encoded]
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rayft-events-") as scratch:
        shelf = _shelf(folder, Path(scratch))
        server = _serve(shelf, Path(scratch), requests, replicas=1)
        try:
            saturated = _saturate(server, requests)
            half = saturated / 2
            print(f"saturated at {saturated:.0f} requests a second")
            promotions: list[tuple[str, Callable[[], Any]]] = [
                ("promotion", lambda: shelf.promote(shelf.find(f"{MODEL}@2"), "champion")),
                ("rollback", lambda: shelf.rollback(MODEL)),
                ("promotion of a broken version", lambda: shelf.promote(shelf.find(f"{MODEL}@3"), "champion")),
            ]
            for name, act in promotions:
                records.append(_load(name, server, requests, half, seconds, act))
            shelf.rollback(MODEL)
            records.append(_load("4x overload", server, requests, 4 * saturated, seconds, None))
        finally:
            server.end()
        server = _serve(shelf, Path(scratch), requests, replicas=2)
        try:
            for retries in (0, 3):
                name = f"SIGKILL of one of two replicas, {retries} retries"
                act = _killer(server)
                records.append(_load(name, server, requests, half, seconds, act, retries))
                _wait_for_replicas(server, 2)
        finally:
            server.end()
    _write(out, [{"measurement": "events", "seconds": seconds, **_machine()}, *records])


def _shelf(folder: Path, scratch: Path) -> Registry:
    """Return a registry of two good versions and one that misses its golden answers; the first is the champion."""
    shelf = Registry.open(scratch / "registry")
    for name in ("one", "two", "broken"):
        copy = shutil.copytree(folder, scratch / name)
        if name == "broken":
            labels = json.loads((copy / "package.json").read_text())["labels"]
            golden = read_golden(copy, len(labels))
            wrong = np.roll(golden.probabilities, 1, axis=1)
            write_golden(copy, Golden(golden.inputs, wrong))
        (copy / "MODEL_CARD.md").write_text(f"Version {name}.\n")
        seal(copy)
        shelf.register(copy, MODEL)
    shelf.promote(shelf.find(f"{MODEL}@1"), "champion")
    return shelf


def _serve(shelf: Registry, scratch: Path, requests: list[bytes], *, replicas: int) -> Server:
    port = int(free_addresses(1)[0].rpartition(":")[2])
    command = [sys.executable, "-m", "rayft", "serve", f"{MODEL}@champion", "--registry", str(scratch / "registry")]
    server = Server([*command, "--port", str(port), "--replicas", str(replicas)], port, scratch / "serve.txt")
    server.wait_until_ready(requests)
    return server


def _saturate(server: Server, requests: list[bytes]) -> float:
    rates = [asyncio.run(closed_loop(server.port, requests, connections=32, seconds=8)).per_s for _ in range(2)]
    # The first turn warms what only a load warms.
    return rates[1]


def _load(
    name: str,
    server: Server,
    requests: list[bytes],
    per_s: float,
    seconds: float,
    act: Callable[[], Any] | None,
    retries: int = 0,
) -> dict[str, Any]:
    """Load it, act after a quarter of the time; returns and prints what came of the requests."""
    outcome = Outcome(0.0)
    pending: list[int] = []

    def later() -> None:
        assert act is not None
        pending.append(outcome.pending)
        act()

    timer = threading.Timer(seconds / 4, later)
    if act is not None:
        timer.start()
    asyncio.run(open_loop(server.port, requests, per_s=per_s, seconds=seconds, retries=retries, outcome=outcome))
    timer.cancel()
    record = {
        "event": name,
        "per_s": per_s,
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "p50_ms": outcome.quantile_ms(50),
        "p99_ms": outcome.quantile_ms(99),
        "max_ms": max(outcome.latencies_ms),
        "pending_at_event": pending[0] if pending else None,
    }
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in record.items() if key != "event"), flush=True)
    return record


def _killer(server: Server) -> Callable[[], None]:
    victim = _replicas(server)[0]
    return lambda: os.kill(victim, signal.SIGKILL)


def _replicas(server: Server) -> list[int]:
    """Return the processes below the server that answer."""
    found = []
    for pid in family(server.process.pid):
        # It may end while it is looked at.
        with contextlib.suppress(OSError):
            if b"ray::ServeReplica" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _wait_for_replicas(server: Server, count: int) -> None:
    end = time.monotonic() + SETTLING_S
    while len(_replicas(server)) < count and time.monotonic() < end:
        time.sleep(0.5)
    # A process is there before it answers.
    time.sleep(15)


if __name__ == "__main__":
    typer.run(main)
