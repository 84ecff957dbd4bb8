"""The endpoint against the same network in-process and behind other servers: ``python benchmarks/serving.py``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
from load import Outcome, closed_loop, cpu_seconds, open_loop, request
from rounds import HERE, Ratio, free_addresses
from speed import RESULTS, Out, _machine, _write

PICTURES = HERE.parent / "examples/data/pictures.parquet"
READY_WITHIN_S = 240.0
SHOWN = ("per_s", "p50_ms", "p99_ms", "late_p99_ms", "cpu_ms", "one_ms", "batch_size")


class Server:
    """A server process that is measured."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.port = port
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, cwd=HERE.parent, start_new_session=True)
        self._log = log

    def wait_until_ready(self, asked: list[bytes]) -> None:
        """Wait until it answers a request."""
        end = time.monotonic() + READY_WITHIN_S
        while self._statuses(asked)[200] == 0:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{self.process.args} did not start:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.5)

    def _statuses(self, asked: list[bytes]) -> Counter[int]:
        return asyncio.run(closed_loop(self.port, asked, connections=1, seconds=0.01)).statuses

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Hold all its processes: a server that polls takes its part of the cores also where nobody asks it."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Stop it with all its processes."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Side:
    """One way to ask one server."""

    name: str
    server: Server
    requests: list[bytes]

    def saturate(self, connections: int, seconds: float) -> dict[str, Any]:
        """Keep all connections busy."""
        before = cpu_seconds(self.server.process.pid)
        outcome = asyncio.run(closed_loop(self.server.port, self.requests, connections=connections, seconds=seconds))
        used = cpu_seconds(self.server.process.pid) - before
        return {**_figures(outcome), "cpu_ms": 1e3 * used / max(1, outcome.statuses[200])}

    def load_at(self, per_s: float, seconds: float) -> dict[str, Any]:
        """Send requests at a fixed rate."""
        outcome = asyncio.run(open_loop(self.server.port, self.requests, per_s=per_s, seconds=seconds))
        return {**_figures(outcome), "late_p99_ms": outcome.late_quantile_ms(99)}


class InProcess:
    """The Predictor in a process of its own, without a server."""

    name = "Predictor, in-process"

    def __init__(self, folder: Path, pictures: int) -> None:
        command = [sys.executable, str(HERE / "predictor_side.py"), str(folder), str(PICTURES), str(pictures)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        print(f"  best batch in-process: {self._answer()['best_batch_size']}", file=sys.stderr)

    def saturate(self, seconds: float) -> dict[str, Any]:
        """Answer batches one after the other."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The process with the Predictor ended early.")
        return json.loads(line)


def main(
    package: Annotated[Path, typer.Argument(help="Folder of a package or run.")],
    out: Out = RESULTS,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of a turn.")] = 8.0,
    connections: Annotated[int, typer.Option(min=1, help="Connections of a saturated server.")] = 32,
    pictures: Annotated[int, typer.Option(min=1, help="Different pictures that are asked.")] = 64,
    litserve_python: Annotated[
        str | None, typer.Option(help="Interpreter with rayft and litserve; left out if not given.")
    ] = None,
) -> None:
    """Throughput, latency and CPU time of a request, in one run on the same cores."""
    folder = package / "package" if (package / "package").exists() else package
    encoded = pq.read_table(PICTURES, columns=["image"])["image"].to_pylist()[:pictures]
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rayft-serving-") as scratch, contextlib.ExitStack() as stack:
        sides = _start(folder, encoded, litserve_python, Path(scratch), stack)
        inside = InProcess(folder, pictures)
        stack.callback(inside.end)
        fast = sides[0]
        for index in range(rounds):
            records.append({"side": inside.name, "round": index, **inside.saturate(seconds)})
            for side in sides:
                records.append({"side": side.name, "round": index, **side.saturate(connections, seconds)})
            half = statistics.median(record["per_s"] for record in records if record["side"] == fast.name) / 2
            with contextlib.ExitStack() as pauses:
                for server in {id(side.server): side.server for side in sides[1:]}.values():
                    if server is not fast.server:
                        pauses.enter_context(server.paused())
                records.append({"side": f"{fast.name}, half load", "round": index, **fast.load_at(half, seconds)})
    _report(records, [side.name for side in sides], inside.name)
    conditions = {"measurement": "serving", "connections": connections, "seconds": seconds}
    _write(out, [{**conditions, **_machine()}, *records])


def _start(
    folder: Path, encoded: list[bytes], litserve_python: str | None, scratch: Path, stack: contextlib.ExitStack
) -> list[Side]:
    """Start and warm every server; rayft with pictures as they are comes first."""
    ports = [int(address.rpartition(":")[2]) for address in free_addresses(4)]
    route = f"/v1/models/{json.loads((folder / 'package.json').read_text())['name']}:predict"
    texts = [base64.b64encode(content).decode() for content in encoded]

    def raw(path: str) -> list[bytes]:
        return [request(path, content, "application/octet-stream") for content in encoded]

    def written(path: str, wrap: Callable[[str], Any]) -> list[bytes]:
        return [request(path, json.dumps(wrap(text)).encode(), "application/json") for text in texts]

    serve = ["-m", "rayft", "serve", str(folder), "--port", str(ports[0]), "--grpc-port", str(ports[1])]
    rayft = Server([sys.executable, *serve], ports[0], scratch / "rayft.txt")
    fastapi = Server(
        [sys.executable, str(HERE / "fastapi_side.py"), str(folder), str(ports[2])], ports[2], scratch / "fastapi.txt"
    )
    sides = [
        Side("rayft, raw", rayft, raw(route)),
        Side("rayft, JSON", rayft, written(route, lambda text: {"instances": [{"b64": text}]})),
        Side("FastAPI + Keras", fastapi, raw("/predict")),
    ]
    if litserve_python is not None:
        command = [litserve_python, str(HERE / "litserve_side.py"), str(folder), str(ports[3])]
        litserve = Server(command, ports[3], scratch / "litserve.txt")
        sides.append(Side("LitServe", litserve, written("/predict", lambda text: {"image": text})))
    for server in {id(side.server): side.server for side in sides}.values():
        stack.callback(server.end)
    for side in sides:
        side.server.wait_until_ready(side.requests)
        # One at a time: also what a server does only under load is warm then.
        side.saturate(32, 3)
        print(f"  ready: {side.name}", file=sys.stderr)
    return sides


def _figures(outcome: Outcome) -> dict[str, Any]:
    return {
        "per_s": outcome.per_s,
        "p50_ms": outcome.quantile_ms(50),
        "p99_ms": outcome.quantile_ms(99),
        "statuses": dict(outcome.statuses),
    }


def _report(records: list[dict[str, Any]], sides: list[str], inside: str) -> None:
    def values(side: str, measure: str) -> list[float]:
        return [record[measure] for record in records if record["side"] == side]

    fast = sides[0]
    for side in [inside, *sides, f"{fast}, half load"]:
        own = [record for record in records if record["side"] == side]
        shown = [f"{key} {statistics.median(each[key] for each in own):.2f}" for key in own[0] if key in SHOWN]
        print(
            f"{side:<24} " + "  ".join(shown) + "".join(f"  {each['statuses']}" for each in own if "statuses" in each)
        )
    rows = [
        (f"{fast} / {other}, requests a second", values(fast, "per_s"), values(other, "per_s"))
        for other in [inside, *sides[1:]]
    ]
    if "LitServe" in sides:
        rows.append(
            ("rayft, JSON / LitServe, requests a second", values("rayft, JSON", "per_s"), values("LitServe", "per_s"))
        )
    rows.append(
        ("p99 at half load / one picture in-process", values(f"{fast}, half load", "p99_ms"), values(inside, "one_ms"))
    )
    print(f"{'ratio':<58} median      min .. max")
    for name, above, below in rows:
        quotients = [one / other for one, other in zip(above, below, strict=True)]
        print(Ratio(name, statistics.median(quotients), min(quotients), max(quotients), len(quotients)))


if __name__ == "__main__":
    typer.run(main)
