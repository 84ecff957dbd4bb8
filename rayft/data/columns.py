"""What each column of a table means."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from rayft.config import ColumnsConfig
from rayft.errors import DataError


@dataclass(frozen=True)
class Columns:
    """Name of the column for each meaning; exactly one of ``image`` and ``path`` is set.

    ``has_several_labels`` says that ``label`` names a column of lists.
    """

    image: str | None
    path: str | None
    label: str
    label_name: str | None
    split: str | None
    group: str | None
    has_several_labels: bool = False

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
    if image and not path and _is_text(schema.field(image).type):
        image, path = None, image
    if image and path:
        image, path = _one_of("image", "path", "where the pictures are", image, path, config, there)
    if not (image or path):
        raise DataError(f"There is no column of pictures. {there}", "Set data.columns.image or data.columns.path.")
    _check_types(schema, image, path)
    several, label = find("labels"), find("label")
    if several and label:
        several, label = _one_of("labels", "label", "what a picture shows", several, label, config, there)
    if several is None:
        return Columns(
            image, path, label or str(find("label", required=True)), find("label_name"), find("split"), find("group")
        )
    if config.label_name is not None:
        raise DataError(
            f"data.columns.label_name is {config.label_name!r}, but {several!r} holds lists of labels.",
            "Write names into the lists, and remove data.columns.label_name.",
        )
    return Columns(image, path, several, None, find("split"), find("group"), has_several_labels=True)


def _one_of(
    first: str, second: str, what: str, one: str, other: str, config: ColumnsConfig, there: str
) -> tuple[str | None, str | None]:
    """Keep the one of two columns that the config names."""
    named = getattr(config, first), getattr(config, second)
    if bool(named[0]) == bool(named[1]):
        raise DataError(
            f"Both {one!r} and {other!r} say {what}. {there}",
            f"Set one of data.columns.{first} and data.columns.{second}, not both.",
        )
    return (one, None) if named[0] else (None, other)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _check_types(schema: pa.Schema, image: str | None, path: str | None) -> None:
    if image is not None:
        kind = schema.field(image).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind)):
            raise DataError(
                f"Column {image!r} is of type {kind}; encoded pictures are binary or struct<bytes, path>, "
                "paths are strings.",
                "Write the bytes of picture files, or their paths.",
            )
    if path is not None:
        kind = schema.field(path).type
        if not _is_text(kind):
            raise DataError(f"Column {path!r} is of type {kind}; paths are strings.", "Correct data.columns.path.")
