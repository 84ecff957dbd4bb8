"""Which caches a storage holds, and the removal of those unused for longest."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from rayft.errors import StorageError
from rayft.prefix import lease
from rayft.prefix.store import COMMIT, USED, CacheFolder
from rayft.storage import Storage

# No lock reaches other machines' processes through an object store. These copy what they use within
# this time of marking it as used.
_REMOTE_GRACE_S = 3600.0


@dataclass(frozen=True)
class Held:
    """One cache of a storage.

    Attributes:
        key: Name of its folder.
        bytes: Of its files.
        complete: Whether it is finished.
        last_used: Seconds since the epoch.
        in_use: Whether a process uses or builds it now.
        recipe: What it was built from; empty while unfinished.
    """

    key: str
    bytes: int
    complete: bool
    last_used: float
    in_use: bool
    recipe: dict[str, Any]


def list_caches(folder: CacheFolder) -> list[Held]:
    """Return the caches of a storage, the longest unused first."""
    if not folder.shared.exists():
        return []
    keys = [name for name in folder.shared.list() if not name.startswith(".")]
    return sorted((_look(folder.shared / key) for key in keys), key=lambda held: held.last_used)


def prune_caches(folder: CacheFolder, max_bytes: int) -> list[Held]:
    """Remove caches until the rest has at most ``max_bytes``, the longest unused first; none that is in use.

    Returns:
        Those removed.
    """
    removed = _prune(folder.shared, max_bytes)
    if not folder.shared.is_local and folder.local.exists():
        # The copies of this node are bounded likewise.
        _prune(Storage.open(folder.local), max_bytes)
    return removed


def _prune(place: Storage, max_bytes: int) -> list[Held]:
    held = list_caches(CacheFolder(place, Path(place.root)))
    excess = sum(each.bytes for each in held) - max_bytes
    removed = []
    for each in held:
        if excess > 0 and _remove(place / each.key):
            excess -= each.bytes
            removed.append(each)
    return removed


def _remove(entry: Storage) -> bool:
    if not entry.is_local:
        if _is_recent(entry):
            return False
        _delete(entry)
        return True
    with lease.exclusive(Path(entry.root)) as free:
        if free:
            _delete(entry)
        return free


def _delete(entry: Storage) -> None:
    # First what makes it visible, so that a crash in between leaves no cache with holes.
    (entry / COMMIT).delete()
    entry.delete()


def _look(entry: Storage) -> Held:
    try:
        content = json.loads((entry / COMMIT).read_bytes())
    except (StorageError, ValueError):
        content = {}
    infos = entry.walk()
    if entry.is_local:
        with lease.exclusive(Path(entry.root)) as free:
            in_use = not free
        last_used = lease.last_use(Path(entry.root))
    else:
        in_use, last_used = _is_recent(entry), _used_at(entry, infos)
    return Held(
        key=entry.name,
        bytes=sum(info.size or 0 for info in infos),
        complete=bool(content),
        last_used=last_used,
        in_use=in_use,
        recipe=content.get("recipe", {}),
    )


def _is_recent(entry: Storage) -> bool:
    return time.time() - _used_at(entry, entry.walk()) < _REMOTE_GRACE_S


def _used_at(entry: Storage, infos: Any) -> float:
    times = {info.base_name: info.mtime_ns / 1e9 for info in infos if info.type == fs.FileType.File and info.mtime_ns}
    return times.get(USED, max(times.values(), default=0.0))
