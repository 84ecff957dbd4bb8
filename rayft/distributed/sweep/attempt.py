"""One try at a trial, in a thread of its own, epoch by epoch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

_END = object()


class Stopped(Exception):
    """Ends the thread of an attempt that is not wanted any more."""


class Attempt:
    """Runs a body that tells of its epochs, and hands them out one by one.

    Attributes:
        stop_requested: Set once the attempt is not wanted any more.
        result: What the body returned.
        error: What it raised.
    """

    def __init__(self, body: Callable[[Attempt], Any], *, lockstep: bool) -> None:
        """Prepare ``body(attempt)``; it starts with the first ``next_epoch``.

        Args:
            body: Calls ``epoch_done`` after each epoch.
            lockstep: Whether the body waits there until somebody asks for the epoch after it. A light trial
                does, so that one that is stopped early has not trained further; workers do not wait.
        """
        self.stop_requested = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self._lockstep = lockstep
        self._told: queue.Queue[Any] = queue.Queue()
        self._go_on = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(body,), name="attempt", daemon=True)

    def epoch_done(self, epoch: int) -> None:
        """Tell that so many epochs are done; called by the body.

        Raises:
            Stopped: The attempt is not wanted any more. In lockstep only: workers are asked, not torn away.
        """
        self._told.put(epoch)
        if self._lockstep:
            self._go_on.acquire()
            if self.stop_requested.is_set():
                raise Stopped

    def next_epoch(self) -> int | None:
        """Wait for the next epoch; returns the epochs done, or None at the end of the body."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._go_on.release()
        told = self._told.get()
        # Where the body does not wait, only the newest counts.
        while told is not _END and not self._told.empty():
            told = self._told.get()
        return None if told is _END else told

    def stop(self, timeout_s: float) -> bool:
        """Ask the body to end, and wait for it; returns whether it has ended."""
        self.stop_requested.set()
        self._go_on.release()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self, body: Callable[[Attempt], Any]) -> None:
        try:
            self.result = body(self)
        except Stopped:
            pass
        # The user's own code may raise anything; whoever asks for the next epoch decides what to do.
        except Exception as error:
            self.error = error
        finally:
            self._told.put(_END)
