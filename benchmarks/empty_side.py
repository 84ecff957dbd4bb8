"""Measured server: rayft's listeners around an engine that computes nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from rayft.serve.contract import Answered, ServedModel
from rayft.serve.listen import ListenSettings, start_listening

CLASSES = 10
MODEL = ServedModel(
    "zoo", "3", (), {}, tuple(f"class {index}" for index in range(CLASSES)), False, (6, 6, 3), None, "x"
)


class EmptyEngine:
    """Gives every picture the same answer, at once."""

    ready = True
    _row = np.random.default_rng(0).dirichlet(np.ones(CLASSES)).astype(np.float32)

    def models(self) -> list[ServedModel]:
        """Return the one model."""
        return [MODEL]

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """Return the one model."""
        return MODEL

    async def answer(self, name: str, version: str | None, inputs: Any, *, deadline: float) -> Answered:
        """Answer without looking."""
        return Answered(MODEL, np.tile(self._row, (len(inputs), 1)), {"decode": 0.1, "queue": 0.2, "compute": 0.3})


async def main(keys: str) -> None:
    """Print the ports, then the CPU seconds used so far for each line on stdin."""
    # What an endpoint with an access log spends on it, without the disk.
    log = logging.getLogger("rayft.access")
    log.setLevel(logging.INFO)
    log.addHandler(logging.FileHandler("/dev/null"))
    settings = ListenSettings(port=0, grpc_port=0, keys=Path(keys))
    listeners = await start_listening(EmptyEngine(), settings, metrics=lambda: ("text/plain", b""))  # type: ignore[arg-type]
    print(json.dumps({"http": listeners.port, "grpc": listeners.grpc_port}), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"cpu_s": time.process_time()}), flush=True)
    await listeners.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
