"""Signals that ask a run to end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from rayft.errors import RunInterrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM)
# `timeout` signals its child, then the group, to which the child belongs as well.
TWICE_S = 0.5
# So much later than the first process of a group, the last one has a signal at most.
SIGNAL_LAG_S = 1.0


@contextlib.contextmanager
def noted_signals(told: str, again: RunInterrupted) -> Iterator[threading.Event]:
    """Note SIGINT and SIGTERM in the context's value, instead of what they would do.

    A handler that raised would do so in the middle of Ray's own code, which turns it into a SystemError. Only a
    second signal does: whoever sends it wants the end now.

    Args:
        told: Printed at the first signal.
        again: Raised at the second.
    """
    asked = threading.Event()
    first_at = 0.0

    def handle(number: int, frame: Any) -> None:
        nonlocal first_at
        if not asked.is_set():
            first_at = time.monotonic()
            asked.set()
            print(f"\n{told}; once more to end at once", file=sys.stderr)
        elif time.monotonic() - first_at > TWICE_S:
            raise again

    with kept_signals():
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                signal.signal(number, handle)
        yield asked


@contextlib.contextmanager
def kept_signals() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back at the end of the block, whatever it does to them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def heard_signals() -> Iterator[list[int]]:
    """Hear SIGINT and SIGTERM in the block, also those whose handler raises where Python drops it.

    So it does in callbacks, such as those before and after a fork.

    Yields:
        The numbers that came, complete when the block has ended.
    """
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield heard
        finally:
            signal.set_wakeup_fd(before)
            with contextlib.suppress(BlockingIOError):
                came = reader.recv(4096)
                heard.extend(number for number in came if number in NUMBERS)
                if before != -1:
                    # An event loop that waits for signals.
                    os.write(before, came)
