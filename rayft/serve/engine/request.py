"""One request on its way through the engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rayft.serve.contract import RequestError, ServedModel
from rayft.serve.predictor import Predictor


@dataclass(frozen=True, eq=False)
class Member:
    """One version of a model in the engine.

    Attributes:
        served: What clients are told of it.
        predictor: Answers; may share its prefix with those of other members.
    """

    served: ServedModel
    predictor: Predictor


@dataclass(eq=False)
class Request:
    """Pictures of one request, and their answers as they come in.

    The event loop makes it. After that, only the trunk's threads write to ``probabilities``, each its own rows, and
    under the trunk's lock to ``left``; the loop hears of the end through ``future`` alone.

    Attributes:
        member: What answers; also where another version takes its place meanwhile.
        probabilities: float32 [n, classes].
        deadline: ``time.monotonic()`` at which nobody waits any more.
        future: Set once every picture is answered, or one cannot be.
        left: Pictures without an answer.
        over: Nobody waits for it any more.
        begun: When it was let in, ``time.monotonic()``; so are the others.
        decoded_at: When its last picture was decoded.
        started_at: When the pass over its last picture began.
        answered_at: When that pass ended.
    """

    member: Member
    probabilities: np.ndarray
    deadline: float
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop
    left: int
    over: bool = False
    begun: float = field(default_factory=time.monotonic)
    decoded_at: float = 0.0
    started_at: float = 0.0
    answered_at: float = 0.0

    def finish(self, error: Exception | None = None) -> None:
        """Tell the waiting loop, from any thread."""
        self.over = True
        _call(self.loop, lambda: self.settle(error))

    def settle(self, error: Exception | None = None) -> None:
        """Set the future; on the loop alone."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


@dataclass(eq=False)
class Row:
    """One decoded picture of a request.

    Attributes:
        request: Where it belongs.
        index: Its place there.
        image: float32 [H, W, C].
    """

    request: Request
    index: int
    image: np.ndarray


def settle_all(requests: Sequence[Request]) -> None:
    """Tell the loops of answered requests, waking each once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Request]] = {}
    for request in requests:
        by_loop.setdefault(request.loop, []).append(request)
    for loop, own in by_loop.items():
        _call(loop, functools.partial(_settle_each, own))


def _settle_each(requests: Sequence[Request]) -> None:
    for request in requests:
        request.settle()


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    # The loop is closed where the process ends in the middle.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def too_late() -> RequestError:
    """Return the error of a passed deadline."""
    return RequestError(
        "The deadline has passed before the answer was there.", "Try again later, or allow more time.", 408
    )
