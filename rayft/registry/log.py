"""An append-only log of small immutable entries, safe under crashes and many writers.

Entry n is the file ``<n>.json``. Where a plain file system lies below, a finished, flushed temporary file is linked
to that name; link() fails where the name exists, so just one writer gets it. On object stores writers agree on the
content first (``rayft.registry.claims``); whoever learns the decision may write it, for all write the same bytes.
Either way an entry is whole or not there, never changes, and entry n + 1 was written by someone who had
read entries 1 to n.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rayft.errors import StorageError
from rayft.registry.claims import agree
from rayft.storage import Storage

_DIGITS = 8
_SUFFIX = ".json"


@dataclass
class Log:
    """The entries below one folder; remembers those it has read.

    Attributes:
        folder: Holds the entries.
        claims: Holds what writers on an object store agree with, a folder an entry.
    """

    folder: Storage
    claims: Storage
    _known: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> list[dict[str, Any]]:
        """Return all entries, oldest first; one request to list, and one for each new entry.

        Raises:
            StorageError: An entry is damaged or missing.
        """
        # Replaced as a whole, for other threads.
        known = list(self._known)
        names = [name for name in self.folder.list(missing_ok=True) if _number(name)]
        for name in names[len(known) :]:
            if _number(name) != len(known) + 1:
                raise StorageError(
                    f"{self.folder} lacks entry {len(known) + 1}, though it has {name}.", "Restore it from a copy."
                )
            content = (self.folder / name).read_bytes()
            if not self.folder.is_local and not _is_whole(content):
                break
            known.append(self._parse(name, content))
        self._known = known
        return list(known)

    def append(self, make: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> dict[str, Any]:
        """Add one entry behind all others; returns it once it is durable.

        Args:
            make: Maps the entries so far to the new one. Called again with more entries where another writer was
                first; may raise, which leaves the log as it is.
        """
        while True:
            entries = self.read()
            entry = {**make(entries), "id": uuid.uuid4().hex}
            content = (json.dumps(entry, ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n").encode()
            name = f"{len(entries) + 1:0{_DIGITS}d}{_SUFFIX}"
            if _link_new(self.folder, name, content) if self.folder.is_local else self._agree_on(name, content):
                return entry

    def _agree_on(self, name: str, content: bytes) -> bool:
        place = _Slot(self.folder / name, self.claims / name)
        won = agree(place, content) == content
        # Nobody needs them once the entry is there; another writer may be removing them as well.
        with contextlib.suppress(StorageError):
            place.claims.delete()
        return won

    def _parse(self, name: str, content: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(content)
        except ValueError as error:
            raise StorageError(f"{self.folder / name} is damaged: {error}.", "Restore it from a copy.") from None
        if not isinstance(entry, dict) or "action" not in entry:
            raise StorageError(f"{self.folder / name} is damaged: it holds no action.", "Restore it from a copy.")
        return entry


@dataclass(frozen=True)
class _Slot:
    """One entry of a log, as ``agree`` sees it."""

    entry: Storage
    claims: Storage

    def put(self, name: str, content: bytes) -> None:
        (self.claims / name).write_bytes(content)

    def list(self) -> list[str]:
        return [name for name in self.claims.list(missing_ok=True) if name.endswith((".promise", ".accept"))]

    def read(self, name: str) -> bytes:
        try:
            return (self.claims / name).read_bytes()
        except StorageError:
            if self.decision() is None:
                raise
            return b""

    def decision(self) -> bytes | None:
        content = self.entry.read_bytes() if self.entry.exists() else b""
        return content if _is_whole(content) else None

    def decide(self, value: bytes) -> None:
        self.entry.write_bytes(value)


def _link_new(folder: Storage, name: str, content: bytes) -> bool:
    """Create a local file with all its content; False where the name is taken."""
    folder.make_folder()
    target = os.path.join(folder.root, name)
    temporary = os.path.join(folder.root, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        hint = "Choose a file system with hard links." if error.errno == errno.EPERM else "Check the path and the disk."
        raise StorageError(f"Cannot write {target}: {error.strerror}.", hint) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    handle = os.open(folder.root, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


def _number(name: str) -> int | None:
    digits = name.removesuffix(_SUFFIX)
    return int(digits) if name.endswith(_SUFFIX) and len(digits) == _DIGITS and digits.isdigit() else None


def _is_whole(content: bytes) -> bool:
    """Tell an entry from one that a store without atomic puts shows in part: the line's end comes last."""
    return content.endswith(b"\n")


def timestamp() -> str:
    """Return the time now, UTC, as ISO 8601 with milliseconds."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
