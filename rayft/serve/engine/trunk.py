"""Models that share a frozen prefix: one queue, one pass of the prefix for all of them."""

from __future__ import annotations

import collections
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from rayft.config.serve import BatchingConfig
from rayft.serve.contract import RequestError
from rayft.serve.engine.ladder import choose_size, ladder, padded_size
from rayft.serve.engine.observe import Observer
from rayft.serve.engine.request import Member, Request, Row, settle_all, too_late

_log = logging.getLogger(__name__)
_WARM_S = 0.3
_WARM_RUNS = 5
# A wait must make a picture so much cheaper.
_GAIN = 0.9


class Trunk:
    """Answers rows of any of its members, in the order in which they came.

    Args:
        prefix: Maps images [b, H, W, C] to the activations that suffixes take; None passes images on.
        image_shape: Height, width, channels.
        batching: Bounds of batches and of the queue.
        observer: Hears of each pass.
        passes: Passes at once, a thread each. A small batch does not fill the cores of a CPU, two of them do.

    Attributes:
        members: Models that use it now; their owner adds and removes them.
        failures: Passes that failed, in a row.
    """

    def __init__(
        self,
        prefix: Callable[[tf.Tensor], tf.Tensor] | None,
        image_shape: tuple[int, int, int],
        batching: BatchingConfig,
        observer: Observer,
        passes: int = 1,
    ) -> None:
        self.members: list[Member] = []
        self.failures = 0
        self._prefix, self._shape, self._observer = prefix, image_shape, observer
        self._sizes = ladder(batching.max_batch_size)
        self._max_wait_s, self._max_queue = batching.max_wait_ms / 1e3, batching.max_queue
        self._seconds: dict[int, float] = {}
        # Guards all below.
        self._changed = threading.Condition()
        self._rows: collections.deque[Row] = collections.deque()
        # Pictures that were let in and are in no pass yet: those being decoded, and the rows.
        self._waiting = 0
        self._closed = False
        # Threads without a pass.
        self._free = passes
        self._threads = [
            threading.Thread(target=self._work, name=f"rayft-trunk-{index}", daemon=True) for index in range(passes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that were let in and are in no pass yet."""
        return self._waiting

    def warm(self, member: Member) -> None:
        """Trace and run a member at every batch size; the first member's times decide over sizes from then on."""
        seconds = {size: self._measure(member, size) for size in self._sizes}
        if not self._seconds:
            self._seconds = seconds

    def admit(self, count: int) -> bool:
        """Let pictures in, each of which must be pushed or given up; False where the trunk is closed.

        Raises:
            RequestError: 429: the queue has no room for all of them.
        """
        with self._changed:
            if self._closed:
                return False
            if self._waiting + count > self._max_queue:
                raise RequestError(
                    f"The queue is full: {self._waiting} pictures wait, {self._max_queue} may.",
                    "Try again later.",
                    429,
                    math.ceil(self._waiting * self._cost(self._waiting)) if self._waiting else 1,
                )
            self._waiting += count
            return True

    def push(self, row: Row) -> None:
        """Queue a decoded picture."""
        with self._changed:
            row.request.decoded_at = time.monotonic()
            self._rows.append(row)
            self._changed.notify_all()

    def give_up(self, count: int) -> None:
        """Forget pictures that were let in."""
        with self._changed:
            self._waiting -= count
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more; the threads end once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the threads, after ``close``."""
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _measure(self, member: Member, size: int) -> float:
        """Return the shortest time of a pass; the first one traces, and is not counted."""
        images = np.zeros((size, *self._shape), np.float32)
        self._compute(images, [(member, range(size))])
        best, end = float("inf"), time.perf_counter() + _WARM_S
        for _ in range(_WARM_RUNS):
            start = time.perf_counter()
            self._compute(images, [(member, range(size))])
            now = time.perf_counter()
            best = min(best, now - start)
            if now > end:
                break
        return best

    def _work(self) -> None:
        follows = False
        while True:
            rows, follows = self._take(gather=follows)
            if not rows:
                return
            self._run(rows)
            with self._changed:
                self._free += 1

    def _take(self, *, gather: bool) -> tuple[list[Row], bool]:
        """Wait for rows and take those of the next pass.

        Args:
            gather: Wait a moment for more where there are some. Whoever comes to an idle trunk runs at once; but
                where passes follow each other, those who were answered together come back together.

        Returns:
            The rows, none at the end; whether they were there already, so that this pass follows on another.
        """
        with self._changed:
            self._drop_dead()
            if gather:
                self._gather()
                self._drop_dead()
            follows = bool(self._rows)
            return (self._pop_share() if self._wait_for_rows() else []), follows

    def _wait_for_rows(self) -> bool:
        """Return True once there are rows, False once none can come any more."""
        while not self._rows:
            if self._closed and not self._waiting:
                self._changed.notify_all()
                return False
            self._changed.wait()
            self._drop_dead()
        return True

    def _pop_share(self) -> list[Row]:
        """Take the rows that are this thread's: a part for each thread that has nothing to do."""
        share = math.ceil(len(self._rows) / self._free)
        count = min(choose_size(share, self._seconds), share)
        self._free -= 1
        self._waiting -= count
        return [self._rows.popleft() for _ in range(count)]

    def _gather(self) -> None:
        """Wait a moment for pictures that are being decoded, where a larger batch makes each of them cheaper."""
        end = time.monotonic() + self._max_wait_s
        while True:
            there, coming = len(self._rows), self._waiting
            left = end - time.monotonic()
            if not there or coming <= there or there >= self._sizes[-1] or left <= 0:
                return
            if self._cost(coming) > _GAIN * self._cost(there):
                return
            self._changed.wait(left)

    def _cost(self, waiting: int) -> float:
        size = choose_size(waiting, self._seconds)
        return self._seconds[size] / min(size, waiting)

    def _drop_dead(self) -> None:
        now = time.monotonic()
        if not any(row.request.over or row.request.deadline <= now for row in self._rows):
            return
        kept: collections.deque[Row] = collections.deque()
        for row in self._rows:
            if row.request.over:
                self._waiting -= 1
            elif row.request.deadline <= now:
                self._waiting -= 1
                row.request.finish(too_late())
            else:
                kept.append(row)
        self._rows = kept

    def _run(self, rows: Sequence[Row]) -> None:
        start = time.monotonic()
        size = padded_size(len(rows), self._sizes)
        images = np.zeros((size, *self._shape), np.float32)
        places: dict[Member, list[int]] = {}
        for place, row in enumerate(rows):
            images[place] = row.image
            row.request.started_at = start
            places.setdefault(row.request.member, []).append(place)
        try:
            for member, probabilities in self._compute(images, list(places.items())):
                for place, answer in zip(places[member], probabilities, strict=True):
                    rows[place].request.probabilities[rows[place].index] = answer
        # A fault of the network or the device must not end the thread; whoever waits hears of it.
        except Exception as error:
            self.failures += 1
            _log.exception("A pass over %d pictures failed", len(rows))
            for row in rows:
                if not row.request.over:
                    row.request.finish(error)
            return
        self.failures = 0
        end = time.monotonic()
        done: list[Request] = []
        # The rest of a request may be in another pass.
        with self._changed:
            for row in rows:
                row.request.left -= 1
                row.request.answered_at = end
                if not row.request.left:
                    done.append(row.request)
        settle_all(done)
        self._observer.batch(len(rows), size, end - start)

    def _compute(
        self, images: np.ndarray, groups: Sequence[tuple[Member, Sequence[int]]]
    ) -> list[tuple[Member, np.ndarray]]:
        """Return the probabilities [rows, classes] of each member for its rows of the images."""
        activations = tf.constant(images)
        if self._prefix is not None:
            activations = self._prefix(activations)
        found = []
        for member, rows in groups:
            own = activations if len(groups) == 1 else self._pick(activations, rows)
            logits = member.predictor.suffix(own).numpy()[: len(rows)]
            found.append((member, member.predictor.probabilities(logits)))
        return found

    def _pick(self, activations: tf.Tensor, rows: Sequence[int]) -> tf.Tensor:
        size = padded_size(len(rows), self._sizes)
        return tf.gather(activations, [*rows, *[rows[0]] * (size - len(rows))])
