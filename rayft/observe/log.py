"""The log of a run: a line of JSON for each event, from driver and workers."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from typing import Any

from rayft.credentials import without_password
from rayft.errors import StorageError
from rayft.observe.sink import Events, Level, Line, OnLine
from rayft.storage import Storage

LOG_FILE = "log.jsonl"
# An object store takes files as a whole only.
_REWRITE_EVERY_S = 30.0
# What a log says of the end; the rest stands in result.json.
_OF_RESULT = (
    "error",
    "best",
    "final",
    "epochs",
    "steps",
    "examples_per_s",
    "wall_s",
    "restarts",
    "best_trial",
    "trials",
)


class RunLog:
    """Takes the lines of a run, of its driver and its workers, to a file and to whoever listens."""

    def __init__(self, on_event: OnLine) -> None:
        """Keep lines for the file until it begins.

        Args:
            on_event: Called with each line at once.
        """
        self._on_event = on_event
        self._file: LogFile | None = None
        self._early: list[Line] | None = []

    def begin(self, folder: Storage | None) -> None:
        """Write the file from now on, with the lines so far.

        Args:
            folder: Of the run, which is there and is this process's own; None for no file.

        Raises:
            StorageError: The file cannot be written.
        """
        early, self._early = self._early or [], None
        self._file = LogFile(folder) if folder is not None else None
        for line in early:
            self._to_file(line)

    def write(self, line: Line) -> None:
        """Take a line.

        Raises:
            StorageError: The file cannot be written.
        """
        self._on_event(line)
        self._to_file(line)

    def close(self) -> None:
        """Write what remote storage lacks.

        Raises:
            StorageError: The file cannot be written.
        """
        if self._file is not None:
            self._file.flush()

    def _to_file(self, line: Line) -> None:
        if self._early is not None:
            self._early.append(line)
        elif self._file is not None:
            self._file.write(line)

    def end(self, run: str, result: dict[str, Any]) -> None:
        """Take the end of a run or sweep.

        Args:
            run: Its name.
            result: Content of result.json.
        """
        status = result["status"]
        said = {name: result[name] for name in _OF_RESULT if name in result}
        level: Level = "info" if status == "finished" else "warning" if status == "interrupted" else "error"
        # What cannot be written, such as with a full disk, has ended the run already.
        with contextlib.suppress(StorageError) if level == "error" else contextlib.nullcontext():
            Events(self.write, run=run).event(f"run_{status}", level=level, **said)
            self.close()


class LogFile:
    """Appends lines to ``log.jsonl`` of a folder; a resumed run goes on in the same file.

    On a local folder each line is there at once. On remote storage the file is written anew at most every 30
    seconds, and when it is closed; only then must it succeed.
    """

    def __init__(self, folder: Storage) -> None:
        """Begin where an earlier start ended; the folder exists."""
        self._file = folder / LOG_FILE
        remote = not self._file.is_local
        self._text = self._file.read_bytes().decode() if remote and self._file.exists() else ""
        self._written, self._written_at = len(self._text), time.monotonic()

    def write(self, line: Line) -> None:
        """Add a line.

        Raises:
            StorageError: The file, on a local folder, cannot be written.
        """
        text = format_line(line) + "\n"
        if not self._file.is_local:
            self._text += text
            if time.monotonic() - self._written_at > _REWRITE_EVERY_S:
                # What a store does not take now it may take the next time; a log is no reason to end a run.
                with contextlib.suppress(StorageError):
                    self.flush()
                self._written_at = time.monotonic()
            return
        try:
            with open(self._file.root, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise StorageError(
                f"Cannot write {self._file.uri}: {error.strerror}.", "Free some space, or choose another storage."
            ) from None

    def flush(self) -> None:
        """Write what remote storage lacks.

        Raises:
            StorageError: The file cannot be written.
        """
        if len(self._text) > self._written:
            self._file.write_bytes(self._text.encode())
            self._written = len(self._text)


def to_stderr(line: Line) -> None:
    """Print a line for machines that read the output of this process."""
    print(format_line(line), file=sys.stderr, flush=True)


def format_line(line: Line) -> str:
    """Return a line as JSON, without the password that an address in it may hold."""
    return json.dumps(_clean(line), default=str)


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        # JSON knows no such number.
        return None
    if isinstance(value, str):
        return without_password(value)
    return value
