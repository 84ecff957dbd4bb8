"""Signals that ask a sweep to end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rayft.distributed.signals import noted_signals
from rayft.errors import RunInterrupted


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Note SIGINT and SIGTERM; the context's value raises RunInterrupted once one came."""
    error = RunInterrupted(
        "The sweep was interrupted; finished trials and checkpoints are kept.", "Run the same command again to go on."
    )
    with noted_signals("stopping", error) as asked:

        def check() -> None:
            if asked.is_set():
                raise error

        yield check
