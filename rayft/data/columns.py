"""What each column of a table means."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from rayft.config import ColumnsConfig
from rayft.errors import DataError


@dataclass(frozen=True)
class Columns:
    """Name of the column for each meaning; exactly one of ``image`` and ``path`` is set."""

    image: str | None
    path: str | None
    label: str
    label_name: str | None
    split: str | None
    group: str | None

    def small(self) -> list[str]:
        """Return the names of all columns but the encoded pictures, each once."""
        names = (self.path, self.label, self.label_name, self.split, self.group)
        return list(dict.fromkeys(name for name in names if name is not None))


def resolve_columns(schema: pa.Schema, config: ColumnsConfig, where: str) -> Columns:
    """Find the column for each meaning: the configured name, or else the usual one if it is there.

    Raises:
        DataError: A column is missing, of the wrong type, or two hold the pictures.
    """
    there = f"Columns of {where}: {', '.join(schema.names)}."

    def find(meaning: str, required: bool = False) -> str | None:
        name = getattr(config, meaning) or meaning
        if name in schema.names:
            if schema.names.count(name) > 1:
                raise DataError(f"The column {name!r} occurs twice. {there}", "Rename one of them.")
            return name
        if required or getattr(config, meaning) is not None:
            raise DataError(f"There is no column {name!r}. {there}", f"Set data.columns.{meaning} to one of them.")
        return None

    image, path = find("image"), find("path")
    if image and path:
        # Naming one of them says which is meant.
        if bool(config.image) == bool(config.path):
            raise DataError(
                f"Both {image!r} and {path!r} say where the pictures are. {there}",
                "Set one of data.columns.image and data.columns.path, not both.",
            )
        image, path = (image, None) if config.image else (None, path)
    if not (image or path):
        raise DataError(f"There is no column of pictures. {there}", "Set data.columns.image or data.columns.path.")
    _check_types(schema, image, path)
    label = find("label", required=True)
    return Columns(image, path, str(label), find("label_name"), find("split"), find("group"))


def _check_types(schema: pa.Schema, image: str | None, path: str | None) -> None:
    if image is not None:
        kind = schema.field(image).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)):
            raise DataError(
                f"Column {image!r} is of type {kind}; encoded pictures are binary, or struct<bytes, path>.",
                f"Write the bytes of picture files, or set data.columns.path to {image!r} if it holds paths.",
            )
    if path is not None:
        kind = schema.field(path).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"Column {path!r} is of type {kind}; paths are strings.", "Correct data.columns.path.")
