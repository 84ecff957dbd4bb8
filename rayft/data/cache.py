"""A bounded folder of local copies that several processes share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rayft.errors import StorageError
from rayft.storage import Storage

TOUCH_AFTER_S = 60  # How stale the time of last use may be; a touch for each read would cost a system call.
ABANDONED_AFTER_S = 24 * 3600  # A temporary file as old as this belongs to a process that died.
_FILLED = 0.9  # Eviction makes room for more than one file, so that not each one has to look at the folder.


@dataclass(frozen=True)
class LocalCache:
    """Copies under names, at most ``limit_bytes`` of them; the least recently used leave first.

    A copy appears whole, by a rename. Who holds one open keeps it although it leaves. All changes of the
    content are made under a lock of the folder, so that threads and processes count the same bytes.

    Attributes:
        folder: Local; made when something is written.
        limit_bytes: Of the copies together. Memos and files being written come on top.
    """

    folder: Path
    limit_bytes: int

    def path(self, name: str) -> Path:
        """Return where the copy of that name lies, if it is there."""
        return self.folder / name

    def touch(self, name: str) -> None:
        """Mark a copy as used now."""
        with contextlib.suppress(FileNotFoundError):
            if time.time() - self.path(name).stat().st_mtime > TOUCH_AFTER_S:
                os.utime(self.path(name))

    def temporary(self) -> Path:
        """Return a new path for a copy in the making; ``admit`` it when it is whole, or unlink it."""
        self._make(self.folder)
        return self.folder / f".{uuid.uuid4().hex}.tmp"

    def admit(self, temporary: Path, name: str) -> bool:
        """Move a whole copy to its name, after others have made room; false where it is larger than the limit."""
        size = temporary.stat().st_size
        if size > self.limit_bytes:
            return False
        target = self.path(name)
        self._make(target.parent)
        with self._locked():
            if target.exists():
                temporary.unlink()
                return True
            total = self._total()
            if total is None or total + size > self.limit_bytes:
                total = self._evict(int(self.limit_bytes * _FILLED) if total else self.limit_bytes, size)
            # First the count: a process that dies in between leaves too high a one, which the next look mends.
            self._write_total(total + size)
            temporary.replace(target)
        return True

    def read(self, file: Storage, stamp: str) -> bytes:
        """Return the content of a remote file, from its copy where there is one.

        Args:
            file: The file.
            stamp: Differs between states of the file, such as its size and time.

        Raises:
            StorageError: The file cannot be read, or the copy not written.
        """
        name = _name(file, stamp)
        try:
            content = self.path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            pass
        else:
            self.touch(name)
            return content
        content = file.read_bytes()
        if len(content) <= self.limit_bytes:
            with self._scratch() as temporary, self.explained():
                temporary.write_bytes(content)
                self.admit(temporary, name)
        return content

    @contextlib.contextmanager
    def local_copy(self, file: Storage, stamp: str) -> Iterator[Path]:
        """Give a local path with the content of a file of any size, for as long as the context lasts."""
        if file.is_local:
            yield Path(file.root)
            return
        name = _name(file, stamp)
        with self._scratch() as own:
            try:
                # A link of our own outlives an eviction.
                os.link(self.path(name), own)
                self.touch(name)
            except FileNotFoundError:
                file.download(own)
                with self._scratch() as shared, self.explained():
                    os.link(own, shared)
                    self.admit(shared, name)
            yield own

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of the local disk into a StorageError."""
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"Cannot write the cache {self.folder}: {error.strerror or error}.",
                "Free some space, or set data.cache_folder to another folder.",
            ) from None

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        temporary = self.temporary()
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Each entry opens the file anew, so the lock holds between threads as well.
        with open(self.folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _evict(self, limit: int, size: int) -> int:
        """Remove the least recently used copies until ``size`` more fit; returns the bytes that are left."""
        copies = []
        for path in (*self.folder.glob("*.arrow"), *self.folder.glob("files/??/*")):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                copies.append((stat.st_mtime, stat.st_size, path))
        total = sum(bytes_ for _, bytes_, _ in copies)
        for _, bytes_, path in sorted(copies):
            if total + size <= max(limit, size):
                break
            path.unlink(missing_ok=True)
            total -= bytes_
        for path in self.folder.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    path.unlink()
        return total

    def _total(self) -> int | None:
        """Bytes of all copies, as last counted; None where nobody did."""
        try:
            return int((self.folder / "total").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _write_total(self, total: int) -> None:
        temporary = self.temporary()
        temporary.write_text(str(total))
        temporary.replace(self.folder / "total")

    def _make(self, folder: Path) -> None:
        with self.explained():
            folder.mkdir(parents=True, exist_ok=True)


def stamp_of(size: int | None, mtime_ns: int | None) -> str:
    """Return what differs between two states of a file."""
    return f"{size}-{mtime_ns}"


def _name(file: Storage, stamp: str) -> str:
    key = hashlib.sha256(f"{file.uri}\0{stamp}".encode()).hexdigest()
    return f"files/{key[:2]}/{key[2:]}"
