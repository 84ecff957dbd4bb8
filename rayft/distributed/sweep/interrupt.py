"""Signals that ask a sweep to end."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from rayft.errors import RunInterrupted


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Note SIGINT and SIGTERM; the context's value raises RunInterrupted once one came.

    A handler that raised by itself would do so in the middle of Ray's own code, which turns it into a SystemError.
    Only a second signal does: whoever sends it wants the end now.
    """
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise RunInterrupted(
                "The sweep was interrupted; finished trials and checkpoints are kept.",
                "Run the same command again to go on.",
            )

    def handle(number: int, frame: Any) -> None:
        if asked.is_set():
            check()
        asked.set()
        print("\nstopping; once more to end at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
