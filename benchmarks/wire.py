"""What a request costs besides the network: an endpoint with an empty model, ``python benchmarks/wire.py``."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import grpc
import typer
from load import closed_loop, request
from rounds import HERE, Ratio
from speed import RESULTS, Out, _machine, _write

from rayft.serve.grpc.messages import SERVICE, message
from rayft.serve.keys import create_key

PICTURE_BYTES = 4000
CALLS_AT_ONCE = 8


class EmptyEndpoint:
    """The server of ``empty_side.py``."""

    def __init__(self, keys: Path) -> None:
        command = [sys.executable, str(HERE / "empty_side.py"), str(keys)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ports = self._line()
        self.http, self.grpc = int(ports["http"]), int(ports["grpc"])

    def cpu_seconds(self) -> float:
        """Return what it has used so far."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return self._line()["cpu_s"]

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()

    def _line(self) -> dict[str, float]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def main(
    out: Out = RESULTS,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each protocol.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Length of a turn.")] = 3.0,
) -> None:
    """CPU time of a request in the server, with keys and an access log, by protocol; there is no other side."""
    with tempfile.TemporaryDirectory(prefix="rayft-wire-") as scratch:
        keys = Path(scratch) / "keys.json"
        key = create_key(keys, "benchmark")
        endpoint = EmptyEndpoint(keys)
        try:
            loads = _loads(endpoint, key, seconds)
            records = [
                {"protocol": name, "round": index, "cpu_ms": _cost(endpoint, load)}
                for index in range(rounds)
                for name, load in loads.items()
            ]
        finally:
            endpoint.end()
    print(f"{'CPU ms a request, empty model':<58} median      min .. max")
    for name in loads:
        found = sorted(record["cpu_ms"] for record in records if record["protocol"] == name)
        print(Ratio(name, found[len(found) // 2], found[0], found[-1], rounds))
    _write(out, [{"measurement": "wire", "seconds": seconds, **_machine()}, *records])


def _cost(endpoint: EmptyEndpoint, load: Callable[[], int]) -> float:
    before = endpoint.cpu_seconds()
    answered = load()
    return 1e3 * (endpoint.cpu_seconds() - before) / answered


def _loads(endpoint: EmptyEndpoint, key: str, seconds: float) -> dict[str, Callable[[], int]]:
    """Return by protocol what asks for a turn; it returns how many requests were answered."""
    picture = os.urandom(PICTURE_BYTES)
    header = f"X-API-Key: {key}\r\n"
    tensor = struct.pack("<I", len(picture)) + picture
    asked = {"name": "image", "datatype": "BYTES", "shape": [1]}
    binary = {
        "inputs": [{**asked, "parameters": {"binary_data_size": len(tensor)}}],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(binary).encode()
    text = json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()}]}).encode()
    bodies = {
        "raw picture": ("/v1/models/zoo:predict", picture, "image/jpeg", ""),
        "JSON, base64": ("/v1/models/zoo:predict", text, "application/json", ""),
        "v2, binary": (
            "/v2/models/zoo/infer",
            head + tensor,
            "application/octet-stream",
            f"Inference-Header-Content-Length: {len(head)}\r\n",
        ),
    }

    def over_http(content: bytes) -> Callable[[], int]:
        return lambda: _answered_http(endpoint.http, content, seconds)

    loads = {
        name: over_http(request(path, body, f"{kind}\r\n{header}{more}".rstrip()))
        for name, (path, body, kind, more) in bodies.items()
    }
    call = message("ModelInferRequest")(model_name="zoo", inputs=[asked], raw_input_contents=[tensor])
    content = call.SerializeToString()
    return {**loads, "v2, gRPC": lambda: asyncio.run(_answered_grpc(endpoint.grpc, content, key, seconds))}


def _answered_http(port: int, content: bytes, seconds: float) -> int:
    outcome = asyncio.run(closed_loop(port, [content], connections=CALLS_AT_ONCE, seconds=seconds))
    if set(outcome.statuses) != {200}:
        raise SystemExit(f"The endpoint answered {dict(outcome.statuses)}.")
    return outcome.statuses[200]


async def _answered_grpc(port: int, content: bytes, key: str, seconds: float) -> int:
    end = asyncio.get_running_loop().time() + seconds
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        async def client() -> int:
            count = 0
            while asyncio.get_running_loop().time() < end:
                await infer(content, metadata=(("x-api-key", key),))
                count += 1
            return count

        return sum(await asyncio.gather(*(client() for _ in range(CALLS_AT_ONCE))))


if __name__ == "__main__":
    typer.run(main)
