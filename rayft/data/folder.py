"""Pictures in a folder per class."""

from __future__ import annotations

import pyarrow as pa

from rayft.config import ColumnsConfig
from rayft.data.cache import LocalCache, stamp_of
from rayft.data.digests import digest_of_files
from rayft.data.reader import FileReader
from rayft.data.source import ALLOWED, Listing, fingerprint
from rayft.data.split import SPLIT_NAMES
from rayft.errors import DataError
from rayft.storage import Storage

_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


def read_folder(place: str, columns: ColumnsConfig, cache: LocalCache) -> Listing:
    """List the files below a folder with a folder per class.

    Classes may nest further folders. Names that start with a dot are ignored. Where the first
    level consists of ``train`` and other splits' names, these are the splits, with the classes
    below.

    Raises:
        DataError: No class folders, a class folder without files, or a picture outside of all.
    """
    storage = Storage.open(place)
    given = sorted(name for name, column in columns.model_dump().items() if column is not None)
    if given:
        raise DataError(
            f"data.columns sets {', '.join(given)}, but {storage.uri} is a folder of pictures without columns.",
            "Remove data.columns, or give a table.",
        )
    files = [(storage.relative(info), info) for info in storage.walk()]
    files = [(path, info) for path, info in files if not any(part.startswith(".") for part in path.split("/"))]
    top = _folders(storage)
    has_splits = "train" in top and all(name in SPLIT_NAMES for name in top)
    depth = 1 if has_splits else 0
    _check_classes(storage, [path for path, _ in files], top if has_splits else [], depth)

    files = [(path, info) for path, info in files if path.count("/") > depth]
    paths = pa.array([path for path, _ in files], pa.string())
    stamps = pa.array([stamp_of(info.size, info.mtime_ns) for _, info in files], pa.string())
    reader = FileReader(storage, paths, cache, stamps)
    return Listing(
        names=paths,
        labels=pa.array([path.split("/")[depth] for path, _ in files], pa.string()),
        label_names=None,
        class_names=None,
        splits=pa.array([path.split("/")[0] for path, _ in files], pa.string()) if has_splits else None,
        groups=None,
        fingerprint=fingerprint("folder", digest_of_files(reader, cache)),
        reader=reader,
    )


def _check_classes(storage: Storage, paths: list[str], splits: list[str], depth: int) -> None:
    """Refuse what would silently be left out: empty classes, pictures that belong to none."""
    stray = [path for path in paths if path.count("/") <= depth and path.lower().endswith(_PICTURE_SUFFIXES)]
    if stray:
        raise DataError(
            f"{len(stray)} pictures of {storage.uri} lie in no class folder; the first: {stray[0]}.",
            "Move each picture into the folder of its class.",
        )
    parents = splits or [""]
    classes = [f"{parent}/{name}".strip("/") for parent in parents for name in _folders(storage / parent)]
    if not classes:
        raise DataError(f"{storage.uri} holds no class folders.", f"Allowed: {ALLOWED}.")
    filled = {"/".join(path.split("/")[: depth + 1]) for path in paths if path.count("/") > depth}
    empty = [name for name in classes if name not in filled]
    if empty:
        raise DataError(
            f"{len(empty)} class folders of {storage.uri} hold no pictures: {', '.join(empty[:10])}.",
            "Add pictures, or remove the folders.",
        )


def _folders(storage: Storage) -> list[str]:
    return [name for name in storage.list() if not name.startswith(".") and (storage / name).is_folder()]
