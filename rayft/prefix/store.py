"""Folders of finished and unfinished caches, on the run's storage with a local copy on each node."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs

import rayft
from rayft.busy import persist
from rayft.errors import StorageError
from rayft.prefix.lease import Lease
from rayft.prefix.recipe import Recipe
from rayft.prefix.shards import Activations, digest_file, is_temporary, parse_name
from rayft.storage import Storage

COMMIT = "complete.json"
USED = "used"
Notice = Callable[[str], None]


@dataclass(frozen=True)
class CacheFolder:
    """``cache/prefix/`` of a storage, a folder for each key.

    Attributes:
        shared: What all nodes see.
        local: What this node maps; the same place where the storage is local.
    """

    shared: Storage
    local: Path

    @classmethod
    def of(cls, storage: str, home: Path | None = None) -> CacheFolder:
        """Return the caches of a run's ``storage``; ``home`` holds the local copies of remote ones."""
        shared = Storage.open(storage) / "cache" / "prefix"
        if shared.is_local:
            return cls(shared, Path(shared.root))
        place = hashlib.sha256(shared.uri.encode()).hexdigest()[:16]
        return cls(shared, (home or Path.home() / ".cache" / "rayft") / "prefix" / place)


class Entry:
    """The cache of one recipe.

    Files of its folder: shards, named by number and digest; ``complete.json``, written last, which lists
    them; ``lease``, locked while in use; ``.verified-<host>.json``, which shards this node has read whole.
    Without ``complete.json`` it is unfinished, and its shards are reused by whoever builds on.
    """

    def __init__(self, folder: CacheFolder, recipe: Recipe) -> None:
        """Name the folder; touches nothing."""
        self.recipe = recipe
        self.shared = folder.shared / recipe.key
        self.local = folder.local / recipe.key

    def lease(self) -> Lease:
        """Keep this cache from being evicted, and mark it as used now."""
        try:
            lease = Lease(self.local)
        except OSError as error:
            raise StorageError(
                f"Cannot use the prefix cache in {self.local}: {error.strerror}.",
                "Choose another storage, or train without it: --set prefix_cache=off.",
            ) from None
        if not self.shared.is_local:
            (self.shared / USED).write_bytes(b"")
        return lease

    def shards(self) -> dict[int, str]:
        """Return the shards that are there, finished or not: number to file name."""
        names = self.shared.list() if self.shared.exists() else []
        parsed = {name: parse_name(name) for name in sorted(names, reverse=True)}
        return {found[0]: name for name, found in parsed.items() if found}

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not there."""
        return sorted(set(range(self.recipe.num_shards)) - set(self.shards()))

    def publish(self, path: Path) -> None:
        """Show all nodes a shard that was written into the local folder."""
        self._stamp(path)
        if not self.shared.is_local:
            _copy(path, self.shared / path.name)

    def committed(self) -> dict[str, Any] | None:
        """Return the content of ``complete.json``, or None where it is absent or unreadable."""
        where = self.shared / COMMIT
        try:
            content = json.loads(where.read_bytes()) if where.exists() else None
        except (ValueError, StorageError):
            return None
        return content if content and content.get("key") == self.recipe.key else None

    def commit(self) -> None:
        """Declare the cache complete; of several builders the first one counts."""
        names = [name for _, name in sorted(self.shards().items())]
        shards = [{"name": name, "bytes": self._shared_size(name)} for name in names]
        content = {
            "key": self.recipe.key,
            "recipe": asdict(self.recipe),
            "rows": self.recipe.num_rows,
            "bytes": sum(self._shared_size(name) for name in names),
            "shards": shards,
            "created": time.time(),
            "rayft": rayft.__version__,
        }
        if self.committed() is None:
            self._write_commit(json.dumps(content, indent=1).encode())
        self._tidy()

    def check(self, notice: Notice) -> dict[str, Any] | None:
        """Return ``complete.json`` if every shard is whole on this node, else None.

        The size of each shard is looked at every time, its digest once a node, file and modification time.
        A damaged one is removed, named through ``notice``, and the cache is unfinished again.
        """
        content = self.committed()
        if content is None:
            return None
        damaged = {shard["name"]: self._problem(shard["name"], shard["bytes"]) for shard in content["shards"]}
        return None if self._remove_damaged(damaged, notice) else content

    def check_unfinished(self, notice: Notice) -> None:
        """Remove the damaged ones among the shards that an interrupted builder left."""
        self._remove_damaged({name: self._problem(name, None) for name in self.shards().values()}, notice)

    def open(self, rows: np.ndarray, content: dict[str, Any]) -> Activations:
        """Map a checked cache.

        Args:
            rows: int64 [n], the ascending row ids.
            content: From ``check``.
        """
        return Activations(self.recipe, rows, [self.local / shard["name"] for shard in content["shards"]])

    def _problem(self, name: str, size: int | None) -> str:
        """Say what is wrong with a shard; empty if it is whole. Fetches it where this node has no copy."""
        for _ in range(2):
            problem = self._local_problem(name, size)
            if not problem or self.shared.is_local:
                return problem
            try:
                _fetch(self.shared / name, self.local / name)
            except (FileNotFoundError, StorageError):
                return "is missing"
        return self._local_problem(name, size)

    def _local_problem(self, name: str, size: int | None) -> str:
        path, parsed = self.local / name, parse_name(name)
        try:
            found = path.stat()
        except FileNotFoundError:
            return "is missing"
        if size is not None and found.st_size != size:
            return f"has {found.st_size} bytes instead of {size}"
        if self._stamps().get(name) == [found.st_size, found.st_mtime_ns]:
            return ""
        if parsed is None or digest_file(path) != parsed[1]:
            return "holds other bytes than were written"
        self._stamp(path)
        return ""

    def _remove_damaged(self, problems: dict[str, str], notice: Notice) -> bool:
        damaged = {name: problem for name, problem in problems.items() if problem}
        if not damaged:
            return False
        # First what makes the cache visible, so that nobody opens the rest.
        (self.shared / COMMIT).delete()
        for name, problem in damaged.items():
            notice(f"prefix cache: shard {self.local / name} {problem}; it is computed again")
            (self.shared / name).delete()
            (self.local / name).unlink(missing_ok=True)
        return True

    def _write_commit(self, content: bytes) -> None:
        if not self.shared.is_local:
            (self.shared / COMMIT).write_bytes(content)
            return
        temporary = self.shared / f".{uuid.uuid4().hex}.tmp"
        temporary.write_bytes(content)
        # Unlike a rename, a link fails where another builder was first.
        with contextlib.suppress(FileExistsError):
            os.link(temporary.root, (self.shared / COMMIT).root)
        temporary.delete()

    def _tidy(self) -> None:
        """Remove what builders left beside the shards that count."""
        content = self.committed()
        if content is None:
            return
        kept = {shard["name"] for shard in content["shards"]}
        for name in self.shared.list():
            if (parse_name(name) is not None and name not in kept) or is_temporary(name):
                (self.shared / name).delete()

    def _shared_size(self, name: str) -> int:
        place = self.shared / name
        return place.filesystem.get_file_info(place.root).size or 0

    @property
    def _stamp_file(self) -> Path:
        return self.local / f".verified-{socket.gethostname()}.json"

    def _stamps(self) -> dict[str, list[int]]:
        try:
            return json.loads(self._stamp_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def _stamp(self, path: Path) -> None:
        """Note that a file was read, or written, whole; a stamp lost to another process costs a second look."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        stamps = {**self._stamps(), path.name: [found.st_size, found.st_mtime_ns]}
        Storage.open(self._stamp_file).write_bytes(json.dumps(stamps).encode())


def _copy(path: Path, target: Storage) -> None:
    try:
        persist(lambda: fs.copy_files(str(path), target.root, fs.LocalFileSystem(), target.filesystem))
    except FileNotFoundError:
        return  # Tidied up by another builder that has finished.
    except OSError as error:
        raise StorageError(
            f"Cannot write the prefix cache shard {target.uri}: {str(error).splitlines()[0]}.",
            "Free some space, choose another storage, or train without it: --set prefix_cache=off.",
        ) from None


def _fetch(source: Storage, path: Path) -> None:
    """Copy a shard to this node; it appears there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        persist(lambda: fs.copy_files(source.root, str(temporary), source.filesystem, fs.LocalFileSystem()))
        temporary.replace(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(
            f"Cannot copy the prefix cache shard {source.uri} to {path.parent}: {str(error).splitlines()[0]}.",
            "Free some space there, or train without it: --set prefix_cache=off.",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
