"""From what a user calls a model to a local folder that holds its package."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rayft.errors import PackageError
from rayft.package.archive import is_archive, unpacked
from rayft.package.record import RECORD_FILE
from rayft.registry.registry import DEFAULT_PLACE, Registry
from rayft.registry.state import Version
from rayft.storage import Storage


@dataclass(frozen=True)
class Located:
    """A package within reach.

    Attributes:
        folder: A local folder; may be gone once the block of ``located`` ends.
        version: What the registry knows of it; None where it does not come from there.
    """

    folder: Path
    version: Version | None


def is_place(model: str) -> bool:
    """Tell a path or URI from a registered name: it has a slash, begins with a dot or ~, or exists."""
    return "/" in model or os.sep in model or model.startswith((".", "~")) or os.path.lexists(model)


@contextlib.contextmanager
def located(model: str | os.PathLike[str], registry: str | os.PathLike[str] | None = None) -> Iterator[Located]:
    """Bring a model within reach, for the length of a block.

    Args:
        model: Folder or archive of a package, or folder of a run, as local path or URI; or ``name``,
            ``name@version``, ``name@alias`` in the registry. A name alone means its champion, else its latest.
        registry: Path or URI of the registry; ``./registry`` if not given.

    Raises:
        PackageError: There is no package, or it is damaged.
        RegistryError: The registry has no such model or version.
        StorageError: The place cannot be read.
    """
    text = os.fspath(model)
    with tempfile.TemporaryDirectory(prefix="rayft-model-") as scratch:
        if not is_place(text):
            shelf = Registry.open(registry or DEFAULT_PLACE)
            version = shelf.find(text)
            yield Located(shelf.fetch(version, Path(scratch)), version)
            return
        storage = Storage.open(text)
        if is_archive(storage.name) and not storage.is_folder():
            archive = Path(storage.root)
            if not storage.is_local:
                archive = Path(scratch) / storage.name
                archive.write_bytes(storage.read_bytes())
            with unpacked(archive) as folder:
                yield Located(folder, None)
            return
        yield Located(_local_folder(storage, Path(scratch)), None)


def absolute_place(model: str) -> str:
    """Return a model's place that means the same in other working directories; names and URIs stay."""
    return str(Path(model).expanduser().absolute()) if is_place(model) and "://" not in model else model


def pinned(model: str, registry: str | os.PathLike[str] | None = None) -> tuple[str, str | None]:
    """Return (model, registry) that mean the same version later and in another working directory.

    Raises:
        RegistryError: The registry has no such model or version.
    """
    if is_place(model):
        return absolute_place(model), None
    shelf = Registry.open(registry or DEFAULT_PLACE)
    return str(shelf.find(model)), shelf.storage.uri


def _local_folder(storage: Storage, scratch: Path) -> Path:
    folder = next((place for place in (storage, storage / "package") if (place / RECORD_FILE).exists()), None)
    if folder is None:
        raise PackageError(
            f"{storage} holds no package: neither {RECORD_FILE} nor package/{RECORD_FILE} is there.",
            "Give the folder of a package, or of a finished run.",
        )
    if folder.is_local:
        return Path(folder.root)
    folder.download_folder(scratch)
    return scratch
