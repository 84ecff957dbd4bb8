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
from rayft.errors import DataError
from rayft.package.read import read_package
from rayft.package.write import write_package
from rayft.serve.contract import Answered, RequestError, ServedModel
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
    """Write the package of a dense network, and open it."""
    model = keras.Sequential([keras.Input((*SIZE, 3)), keras.layers.Flatten(), keras.layers.Dense(len(LABELS))])
    kernel = np.random.default_rng(3).normal(size=model.layers[-1].kernel.shape) / 1000
    model.layers[-1].kernel.assign(kernel)
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


class PredictorEngine:
    """Answers one request after the other; see ``rayft.serve.contract.Engine``.

    Attributes:
        ready: Set by tests.
        delay_s: Waited before each answer.
    """

    def __init__(self, predictor: Predictor, names: Sequence[str] = ("zoo", "farm")) -> None:
        self.ready = True
        self.delay_s = 0.0
        self.full = False
        self._predictor = predictor
        self._models = [
            ServedModel(
                name,
                "3",
                ("champion",),
                {"accuracy": 0.5},
                predictor.labels,
                False,
                (*SIZE, 3),
                None,
                predictor.identity,
            )
            for name in names
        ]

    def models(self) -> list[ServedModel]:
        return self._models

    def find(self, name: str, version: str | None = None) -> ServedModel:
        for model in self._models:
            if model.name == name and version in (None, model.version):
                return model
        raise RequestError(f"There is no model {name[:60]!r} {version or ''}.", "Ask for zoo.", 404)

    async def answer(self, name, version, inputs, *, deadline) -> Answered:
        model = self.find(name, version)
        if self.full:
            raise RequestError("The queue is full.", "Try again.", 429, 2.5)
        if self.delay_s:
            await asyncio.sleep(min(self.delay_s, max(0.0, deadline - time.monotonic())))
        if time.monotonic() >= deadline:
            raise RequestError("The deadline has passed.", "Allow more time.", 408)
        encoded = isinstance(inputs, list)
        call = self._predictor.predict if encoded else self._predictor.predict_images
        try:
            rows = await asyncio.to_thread(call, inputs)
        except DataError as error:
            raise RequestError(*error.args, 422) from None
        return Answered(model, np.stack([row.probabilities for row in rows]), {"queue": 0.25, "compute": 1.5})

    async def explain(self, name, version, picture, label, *, deadline) -> bytes:
        model = self.find(name, version)
        if label not in (None, *model.labels):
            raise RequestError(f"There is no class {label!r}.", "Leave it out.", 404)
        try:
            with Image.open(io.BytesIO(picture)) as opened, io.BytesIO() as buffer:
                opened.convert("RGB").save(buffer, "PNG")
                return buffer.getvalue()
        except OSError:
            raise RequestError("Picture number 0 cannot be decoded.", "Send a picture.", 422) from None


class Endpoint:
    """A running endpoint."""

    def __init__(self, engine: PredictorEngine, loop: asyncio.AbstractEventLoop, listeners: Listeners) -> None:
        self.engine, self.loop, self.listeners = engine, loop, listeners

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
def serving(engine: PredictorEngine, settings: ListenSettings | None = None, **more) -> Iterator[Endpoint]:
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
