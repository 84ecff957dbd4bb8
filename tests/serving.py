"""A real endpoint in a thread of this process, over a tiny package."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
from golden_examples import golden_examples
from PIL import Image

from rayft.config import parse_config
from rayft.package.read import read_package
from rayft.package.write import write_package
from rayft.serve.contract import RequestError, ServedModel
from rayft.serve.engine.engine import BatchingEngine
from rayft.serve.listen import Listeners, ListenSettings, start_listening
from rayft.serve.predictor import Predictor

LABELS = ("cat", "dog", "eel")
SIZE = (6, 6)


def noise(seed: int, side: int = SIZE[0]) -> bytes:
    """Return a PNG of random pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tiny_predictor(folder: Path) -> Predictor:
    """Write the package of a small network, and open it."""
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((*SIZE, 3)), *layers, keras.layers.Dense(len(LABELS))])
    write_package(
        folder,
        model=model,
        config=parse_config({"name": "zoo", "data": {"source": "x"}}),
        labels=LABELS,
        image_size=SIZE,
        licence="MIT",
        metrics={"accuracy": 0.5},
        dataset_fingerprint="abc",
        blocks_frozen=["stem"],
        golden=golden_examples(model, [noise(seed) for seed in range(2)], SIZE),
    )
    return Predictor(read_package(folder))


class BrakedEngine(BatchingEngine):
    """The engine, which tests can slow down.

    Attributes:
        delay_s: Waited before each answer.
        full: Whether it refuses as if its queue were full.
        loading: Whether it says that it is not ready.
        asked: Requests that have come so far.
    """

    def __init__(self, predictor: Predictor, names: Sequence[str] = ("zoo", "farm")) -> None:
        super().__init__(names)
        self.delay_s, self.full, self.loading, self.asked = 0.0, False, False, 0
        for name in names:
            facts = (predictor.labels, False, (*SIZE, 3), predictor.prefix_hash, predictor.identity)
            self.install(ServedModel(name, "3", ("champion",), {"accuracy": 0.5}, *facts), predictor)

    @property
    def ready(self) -> bool:
        return not self.loading and super().ready

    async def answer(self, name, version, inputs, *, deadline):
        self.asked += 1
        if self.full:
            raise RequestError("The queue is full.", "Try again.", 429, 2.5)
        if self.delay_s:
            await asyncio.sleep(min(self.delay_s, max(0.0, deadline - time.monotonic())))
        return await super().answer(name, version, inputs, deadline=deadline)


class Endpoint:
    """A running endpoint."""

    def __init__(self, engine: BrakedEngine, loop: asyncio.AbstractEventLoop, listeners: Listeners) -> None:
        self.engine, self.loop, self.listeners = engine, loop, listeners

    bearer: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listeners.port}"

    def ask(self, method: str, path: str, body=None, headers=None) -> tuple[int, dict[str, str], bytes]:
        """Send one request on a connection of its own; header names in lower case."""
        connection = http.client.HTTPConnection("127.0.0.1", self.listeners.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            names = {name.lower() for name, _ in answer.getheaders()}
            return answer.status, {name: str(answer.getheader(name)) for name in names}, answer.read()
        finally:
            connection.close()

    def predict(self, picture: bytes) -> list[float]:
        status, _, body = self.ask("POST", "/v1/models/zoo:predict", picture, {"content-type": "image/png"})
        assert status == 200, body
        return json.loads(body)["predictions"][0]["probabilities"]


@contextlib.contextmanager
def serving(engine: BrakedEngine, settings: ListenSettings | None = None, **more) -> Iterator[Endpoint]:
    """Run an endpoint for the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    metrics = more.pop("metrics", lambda: ("text/plain; version=0.0.4", b"rayft_up 1\n"))
    try:
        listeners = run(start_listening(engine, settings or ListenSettings(port=0), metrics=metrics, **more))
        try:
            yield Endpoint(engine, loop, listeners)
        finally:
            run(listeners.stop())
    finally:
        run(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
