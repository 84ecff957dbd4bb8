"""One try at a trial, in a thread of its own, which tells how far it is."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

_END = object()


class Stopped(Exception):
    """Ends the thread of an attempt that is not wanted any more."""


class Attempt:
    """Runs a body that tells how far it is, such as after how many epochs, and hands this out.

    Attributes:
        stop_requested: Set once the attempt is not wanted any more.
        result: What the body returned.
        error: What it raised.
    """

    def __init__(self, body: Callable[[Attempt], Any], *, lockstep: bool) -> None:
        """Prepare ``body(attempt)``; it starts with the first ``next_told``.

        Args:
            body: Calls ``tell`` whenever it got further.
            lockstep: Whether the body waits there until somebody asks again. A light trial does after each epoch, so
                that one that is stopped early has not trained further; workers do not wait.
        """
        self.stop_requested = threading.Event()
        self.result: Any = None
        self.error: Exception | None = None
        self._lockstep = lockstep
        self._told: queue.Queue[Any] = queue.Queue()
        self._go_on = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(body,), name="attempt", daemon=True)

    def tell(self, done: float) -> None:
        """Tell that so much is done; called by the body.

        Raises:
            Stopped: The attempt is not wanted any more. In lockstep only: workers are asked, not torn away.
        """
        self._told.put(done)
        if self._lockstep:
            self._go_on.acquire()
            if self.stop_requested.is_set():
                raise Stopped

    def next_told(self) -> float | None:
        """Wait until the body got further; returns how far, or None at its end."""
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
        # The user's own code may raise anything; whoever asks decides what to do.
        except Exception as error:
            self.error = error
        finally:
            self._told.put(_END)
