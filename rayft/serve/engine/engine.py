"""The engine: models by name, requests in, answers out."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from rayft.config.serve import BatchingConfig
from rayft.serve.contract import Answered, RequestError, ServedModel
from rayft.serve.engine.decode import check_decoded, decode_encoded
from rayft.serve.engine.explain import HeatMap, build_heat_map, explain
from rayft.serve.engine.observe import Observer, Silence
from rayft.serve.engine.request import Member, Request, Row, too_late
from rayft.serve.engine.share import passes_at_once
from rayft.serve.engine.trunk import Trunk
from rayft.serve.predictor import Predictor
from rayft.serve.wire.json_text import shown

# So many passes in a row fail only where the process, or its device, is broken.
_MAX_FAILURES = 3
_MAX_EXPLAINED = 4


class BatchingEngine:
    """Answers requests for several models; see ``rayft.serve.contract.Engine``.

    Models whose packages have one ``prefix_hash`` are one trunk: a request for either goes into the same batch.

    Args:
        names: Models that must be installed before it is ready, in the order in which they are listed.
        batching: Bounds of batches and queues.
        threads: CPUs to use: pictures decoded at once; passes at once follow from it where ``batching`` is silent.
        observer: Hears of passes, answers and refusals.
    """

    def __init__(
        self,
        names: Sequence[str],
        batching: BatchingConfig | None = None,
        *,
        threads: int = 1,
        observer: Observer | None = None,
    ) -> None:
        self._names = tuple(names)
        self._batching = batching or BatchingConfig()
        self._observer = observer or Silence()
        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        self._passes = passes_at_once(threads, on_gpu=on_gpu, asked=self._batching.passes)
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="rayft-decode")
        # One thread: heat maps must not take the cores from answers.
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="rayft-explain")
        self._explaining = 0
        self._heat_maps: weakref.WeakKeyDictionary[Predictor, HeatMap] = weakref.WeakKeyDictionary()
        # Replaced as a whole, so that the loop sees the old ones or the new ones.
        self._members: dict[str, tuple[Member, Trunk]] = {}
        self._installing = threading.Lock()
        self._in_flight = 0
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether every model is loaded and warm."""
        return all(name in self._members for name in self._names)

    @property
    def queued(self) -> int:
        """Pictures that wait for a pass."""
        return sum(trunk.waiting for trunk in self._trunks())

    @property
    def in_flight(self) -> int:
        """Pictures that were let in and not answered yet."""
        return self._in_flight

    @property
    def broken(self) -> bool:
        """Whether passes keep failing, so that only a new process helps."""
        return any(trunk.failures >= _MAX_FAILURES for trunk in self._trunks())

    def models(self) -> list[ServedModel]:
        """Return what is served now, in the order of the command line."""
        members = self._members
        return [members[name][0].served for name in self._names if name in members]

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """Return a served model.

        Raises:
            RequestError: 404: no such model, or another version is served; 503 while it is loading.
        """
        return self._find(name, version)[0].served

    def install(self, served: ServedModel, predictor: Predictor) -> None:
        """Check and warm a version, then let it take the place of the one of its name; takes seconds, off the loop.

        Raises:
            PackageError: It does not answer its golden examples as evaluation did; all stays as it was.
        """
        with self._installing:
            trunk = self._trunk_of(predictor)
            if trunk is not None and trunk.members:
                predictor.adopt_prefix(trunk.members[0].predictor)
            # After that, so that a hash which is not true shows.
            predictor.replay_golden()
            if trunk is None:
                trunk = Trunk(
                    predictor.prefix, predictor.image_shape, self._batching, self._observer, passes=self._passes
                )
            member = Member(served, predictor)
            try:
                trunk.warm(member)
            except BaseException:
                if not trunk.members:
                    trunk.close()
                raise
            trunk.members.append(member)
            before = self._members.get(served.name)
            self._members = {**self._members, served.name: (member, trunk)}
            if before is not None:
                _retire(*before)

    def describe(self, name: str, **facts: object) -> None:
        """Replace facts of a served model, such as its aliases."""
        with self._installing:
            member, trunk = self._members[name]
            served = dataclasses.replace(member.served, **facts)  # type: ignore[arg-type]
            renewed = Member(served, member.predictor)
            trunk.members.append(renewed)
            self._members = {**self._members, name: (renewed, trunk)}
            _retire(member, trunk)

    async def answer(
        self, name: str, version: str | None, inputs: Sequence[bytes] | np.ndarray, *, deadline: float
    ) -> Answered:
        """Answer pictures of one request, in their order; see ``rayft.serve.contract.Engine.answer``."""
        try:
            return await self._answer(name, version, inputs, deadline)
        except RequestError as error:
            # A name that nobody serves must not become a label of a metric.
            self._observer.refused(name if name in self._members else "", error.status)
            raise

    async def _answer(
        self, name: str, version: str | None, inputs: Sequence[bytes] | np.ndarray, deadline: float
    ) -> Answered:
        member, trunk = self._find(name, version)
        if isinstance(inputs, np.ndarray):
            inputs = check_decoded(inputs, member.predictor.image_shape)
        count = len(inputs)
        if count > self._batching.max_queue:
            raise RequestError(
                f"The request has {count} pictures; at most {self._batching.max_queue} are allowed.", "Split it.", 413
            )
        if deadline <= time.monotonic():
            raise too_late()
        while not trunk.admit(count):
            # Another version took its place just now.
            member, trunk = self._find(name, version)
        loop = asyncio.get_running_loop()
        classes = len(member.served.labels)
        request = Request(member, np.zeros((count, classes), np.float32), deadline, loop.create_future(), loop, count)
        if not count:
            return Answered(member.served, request.probabilities)
        self._moved(count)
        timer = loop.call_later(deadline - time.monotonic(), lambda: request.settle(too_late()))
        try:
            for index, one in enumerate(inputs):
                if isinstance(one, np.ndarray):
                    trunk.push(Row(request, index, one))
                else:
                    self._decoders.submit(_decode, trunk, request, index, one)
            await request.future
        finally:
            # Also where the client has gone: what is left of it is dropped.
            request.over = True
            timer.cancel()
            self._moved(-count)
        self._observer.answered(member.served, count, request.answered_at - request.begun)
        timing = {
            "decode": request.decoded_at - request.begun,
            "queue": request.started_at - request.decoded_at,
            "compute": request.answered_at - request.started_at,
        }
        return Answered(member.served, request.probabilities, {part: seconds * 1e3 for part, seconds in timing.items()})

    async def explain(
        self, name: str, version: str | None, picture: bytes, label: str | None, *, deadline: float
    ) -> bytes:
        """Return a PNG of the picture under a heat map; see ``rayft.serve.contract.Engine.explain``."""
        member, _ = self._find(name, version)
        if self._explaining >= _MAX_EXPLAINED:
            raise RequestError(
                f"{self._explaining} heat maps are being made, no more at once.", "Try again later.", 429, 1
            )
        self._explaining += 1
        work = asyncio.get_running_loop().run_in_executor(
            self._explainer, self._explain, member, picture, label, deadline
        )
        # It counts until the thread is done with it, even where nobody waits any more.
        work.add_done_callback(self._explained)
        done, _ = await asyncio.wait([work], timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise too_late()
        return work.result()

    def _explain(self, member: Member, picture: bytes, label: str | None, deadline: float) -> bytes:
        if deadline <= time.monotonic():
            raise too_late()
        predictor = member.predictor
        image = decode_encoded(predictor, picture, 0)
        if predictor not in self._heat_maps:
            self._heat_maps[predictor] = build_heat_map(predictor)
        return explain(predictor, self._heat_maps[predictor], image, picture, label)

    def _explained(self, work: asyncio.Future[bytes]) -> None:
        self._explaining -= 1
        if not work.cancelled():
            # Looked at, or asyncio would complain where nobody waited.
            work.exception()

    def close(self, timeout_s: float = 10.0) -> None:
        """End the threads once what was let in is answered."""
        self._closed = True
        trunks = self._trunks()
        self._decoders.shutdown(wait=False)
        self._explainer.shutdown(wait=False, cancel_futures=True)
        for trunk in trunks:
            trunk.close()
        for trunk in trunks:
            trunk.join(timeout_s)

    def _moved(self, count: int) -> None:
        self._in_flight += count
        self._observer.load(self.queued, self._in_flight)

    def _find(self, name: str, version: str | None) -> tuple[Member, Trunk]:
        if self._closed:
            raise RequestError("The endpoint is stopping.", "Try again in a moment.", 503)
        found = self._members.get(name)
        if found is None and name in self._names:
            raise RequestError(f"The model {name!r} is being loaded.", "Try again in a moment.", 503)
        if found is None:
            raise RequestError(
                f"There is no model {shown(name)}; there are {', '.join(self._names)}.", "Ask for one of them.", 404
            )
        served = found[0].served
        if version not in (None, served.version):
            raise RequestError(
                f"{name} has no version {shown(version)} here; {served.version} is served.",
                "Leave the version out, or ask for that one.",
                404,
            )
        return found

    def _trunks(self) -> list[Trunk]:
        return list(dict.fromkeys(trunk for _, trunk in self._members.values()))

    def _trunk_of(self, predictor: Predictor) -> Trunk | None:
        if predictor.prefix_hash is None:
            return None
        trunks = {member.served.prefix_hash: trunk for member, trunk in self._members.values()}
        return trunks.get(predictor.prefix_hash)


def _decode(trunk: Trunk, request: Request, index: int, picture: bytes) -> None:
    """Decode a picture and queue it; whatever goes wrong, whoever waits hears of it."""
    try:
        # A request with one bad picture, or too late, decodes no more of them.
        if not request.over:
            if request.deadline <= time.monotonic():
                raise too_late()
            trunk.push(Row(request, index, decode_encoded(request.member.predictor, picture, index)))
            return
    except Exception as error:
        request.finish(error)
    trunk.give_up(1)


def _retire(member: Member, trunk: Trunk) -> None:
    trunk.members.remove(member)
    if not trunk.members:
        trunk.close()
