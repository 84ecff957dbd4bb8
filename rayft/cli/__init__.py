"""The command line, a module for each command."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence

from rayft.cli import (
    cache,
    data,
    evaluate,
    export,
    init,
    jobs,
    keys,
    models,
    predict,
    schema,
    serve,
    status,
    submit,
    sweep,
    train,
    validate,
    verify,
)
from rayft.cli.app import app, tell_error
from rayft.errors import RayftError, RunInterrupted

__all__ = [
    "cache",
    "data",
    "evaluate",
    "export",
    "init",
    "jobs",
    "keys",
    "main",
    "models",
    "predict",
    "schema",
    "serve",
    "status",
    "submit",
    "sweep",
    "train",
    "validate",
    "verify",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 the run failed, 2 wrong input, 130 interrupted."""
    try:
        with _terminated_in_words():
            app(args=arguments, prog_name="rayft")
    except RayftError as error:
        tell_error(error)
        return error.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


@contextlib.contextmanager
def _terminated_in_words() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does; commands that can stop better take both for themselves."""

    def end(number: int, frame: object) -> None:
        raise RunInterrupted("Ended by SIGTERM.", "Run the same command again.")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
