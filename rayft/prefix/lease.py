"""Locks that say whether a cache is in use on this machine; they end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

NAME = "lease"


class Lease:
    """A shared lock on a cache's folder: while any process holds one, the cache is not evicted."""

    def __init__(self, folder: Path) -> None:
        """Take the lock, and note the moment of use; the folder is made where it is missing."""
        self._file = _lock(folder, fcntl.LOCK_SH)
        os.utime(folder / NAME)

    def release(self) -> None:
        """Let go; twice does no harm."""
        self._file.close()


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Say whether no process holds a lease; none can be taken inside the block if so."""
    try:
        file = (folder / NAME).open("ab")
    except FileNotFoundError:
        yield True
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def last_use(folder: Path) -> float:
    """Return the time of the latest lease, or of the folder, in seconds since the epoch."""
    where = folder / NAME
    return (where if where.exists() else folder).stat().st_mtime


def _lock(folder: Path, kind: int) -> IO[bytes]:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / NAME).open("ab")
        except FileNotFoundError:
            continue  # Evicted between the two lines.
        fcntl.flock(file, kind)
        # Whoever evicted the folder while this one waited left a lock on a file that is gone.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == (folder / NAME).stat().st_ino:
                return file
        file.close()
