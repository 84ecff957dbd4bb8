"""Folders that ``save_to_disk`` of Hugging Face's datasets wrote; the library itself is not needed."""

from __future__ import annotations

import json
from typing import Any

from rayft.data.cache import LocalCache
from rayft.data.file_table import FileTable
from rayft.data.source import SAVED_MARKS
from rayft.data.split import SPLIT_NAMES
from rayft.errors import DataError, StorageError
from rayft.storage import Storage


def open_saved(storage: Storage, cache: LocalCache) -> tuple[FileTable, dict[str, Any]]:
    """Return the rows of a saved Dataset, or of all splits of a DatasetDict, with the features of its columns.

    Raises:
        DataError: A file of the folder is damaged, rows were selected without rewriting them, or a split has
            an unknown name.
    """
    names = storage.list()
    parts = _splits(storage) if SAVED_MARKS[0] in names else [storage]
    files: list[Storage] = []
    features: dict[str, Any] = {}
    for part in parts:
        state = _read_json(part / "state.json")
        if state.get("_indices_files") or state.get("_indices_data_files"):
            raise DataError(
                f"{part.uri} holds a selection of rows as indices.", "Call flatten_indices() before save_to_disk()."
            )
        files += [part / str(file["filename"]) for file in state.get("_data_files", [])]
        found = _read_json(part / "dataset_info.json").get("features") or {}
        if features and found != features:
            raise DataError(
                f"The splits of {storage.uri} differ in their features.", "Save splits of one dataset, or one split."
            )
        features = found
    if not files:
        raise DataError(f"{storage.uri} holds no rows.", "Save a dataset with examples.")
    return FileTable(storage, tuple(files), "arrow", cache), features


def names_of_classes(features: dict[str, Any], label: str) -> Any:
    """Return the names of a ClassLabel, or of a list of them; None for other features."""
    feature = features.get(label)
    for _ in range(2):
        if isinstance(feature, list):
            feature = feature[0] if feature else None
        if not isinstance(feature, dict):
            return None
        if "names" in feature:
            return feature["names"]
        feature = feature.get("feature")
    return None


def _splits(storage: Storage) -> list[Storage]:
    names = _read_json(storage / SAVED_MARKS[0]).get("splits", [])
    unknown = [name for name in names if name not in SPLIT_NAMES]
    if unknown or not names:
        raise DataError(
            f"{storage.uri} has the splits {', '.join(map(str, names)) or 'none'}; "
            f"allowed are {', '.join(SPLIT_NAMES)}.",
            "Rename the splits, or name the folder of one of them.",
        )
    return [storage / name for name in names]


def _read_json(file: Storage) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, StorageError) as error:
        raise DataError(f"{file.uri} of a saved dataset is missing or damaged: {error}.", "Save it again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{file.uri} of a saved dataset is damaged.", "Save it again.")
    return content
