"""From the labels of a source to class numbers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.errors import DataError


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a column of that type holds several labels for each example."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def parse_cells(values: pa.Array, *, several: bool) -> pa.Array:
    """Turn text into labels: whole numbers where all cells are, else strings.

    Args:
        values: Strings; other types stay as they are.
        several: Whether a cell holds labels divided by ``|``, or a JSON list; an empty one holds none.

    Raises:
        DataError: A cell begins like a JSON list and is none.
    """
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return values
    if not several:
        return _numbers_if_all_are(values)
    cells = [_divide(cell or "", row) for row, cell in enumerate(values.to_pylist())]
    flat = _numbers_if_all_are(pa.array([label for cell in cells for label in cell], pa.string()))
    return pa.ListArray.from_arrays(np.cumsum([0, *map(len, cells)], dtype=np.int32), flat)


def _divide(cell: str, row: int) -> list[str]:
    if not cell.strip().startswith("["):
        return [label.strip() for label in cell.split("|") if label.strip()]
    try:
        labels = json.loads(cell)
    except ValueError:
        raise DataError(
            f"Row {row} has the labels {cell!r}, which begin like a JSON list and are none.",
            'Write a|b, or ["a", "b"].',
        ) from None
    if not all(isinstance(label, (str, int)) and not isinstance(label, bool) for label in labels):
        raise DataError(f"Row {row} has the labels {cell!r}.", "Write strings or whole numbers.")
    return [str(label) for label in labels]


def _numbers_if_all_are(values: pa.Array) -> pa.Array:
    present = values.drop_null()
    # 007 is a name: its zeros would be lost.
    if len(present) and pc.all(pc.match_substring_regex(present, "^(0|-?[1-9][0-9]{0,17})$")).as_py():
        return values.cast(pa.int64())
    return values


def encode_label_lists(values: pa.Array, class_names: tuple[str, ...] | None) -> tuple[pa.Array, tuple[str, ...]]:
    """Number the classes from 0, where an example has any number of them.

    Args:
        values: list<string or integer> [n]; an empty list says none of the classes.
        class_names: Names of classes 0, 1, .., where the source has them.

    Returns:
        list<int32> [n] of ascending, different class numbers, and the name of each class.

    Raises:
        DataError: An example has null, or ``encode_labels`` refuses a label.
    """
    if values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise DataError(f"Row {row} has no labels (null).", "Write an empty list where none of the classes is there.")
    flat = values.flatten()
    if not len(flat):
        raise DataError("No example has a label.", "Label the examples.")
    encoded, labels = encode_labels(flat, None, class_names)
    lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
    parts = [np.unique(part) for part in np.split(encoded, np.cumsum(lengths)[:-1])]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(parts), pa.int32())), labels


def encode_labels(
    values: pa.Array, names: pa.Array | None, class_names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the classes from 0.

    Strings are sorted; integers keep their order.

    Args:
        values: Label of each example: strings, integers, or whole floats.
        names: Name of the class of each example, where the source has such a column.
        class_names: Names of classes 0, 1, .., where the source's metadata has them.

    Returns:
        int32 [n] class numbers, and the name of each class.

    Raises:
        DataError: Missing, negative or fractional labels, a number without a name, or a number
            with two names.
    """
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.string())
    _check_present(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        labels = tuple(sorted(pc.unique(values).to_pylist()))
        return pc.index_in(values, pa.array(labels, values.type)).to_numpy().astype(np.int32), labels
    numbers = _whole_numbers(values)
    if class_names is not None:
        too_large = np.flatnonzero(numbers >= len(class_names))
        if too_large.size:
            raise DataError(
                f"Label {numbers[too_large[0]]} of row {too_large[0]} has no name; the metadata of the table names "
                f"classes 0 to {len(class_names) - 1}.",
                "Correct the label, or the list of classes.",
            )
        return numbers.astype(np.int32), class_names
    present, encoded = np.unique(numbers, return_inverse=True)
    labels = tuple(str(number) for number in present) if names is None else _names_of(present, encoded, names)
    return encoded.astype(np.int32), labels


def _check_present(values: pa.Array) -> None:
    missing = values.is_null(nan_is_null=True)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        missing = pc.or_(missing, pc.equal(values, "").fill_null(True))
    rows = np.flatnonzero(missing.to_numpy(zero_copy_only=False))
    if rows.size:
        first = ", ".join(str(row) for row in rows[:10])
        raise DataError(
            f"{rows.size} examples have no label (null, NaN or empty); the first rows: {first}.",
            "Label these rows, or remove them.",
        )


def _whole_numbers(values: pa.Array) -> np.ndarray:
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise DataError(f"Labels are of type {values.type}.", "Use integers from 0, or strings.")
    numbers = values.to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((numbers < 0) | (numbers != np.floor(numbers)) | (numbers >= 2**31))
    if wrong.size:
        raise DataError(
            f"Label {numbers[wrong[0]]} of row {wrong[0]} is not a class number ({wrong.size} such rows).",
            "Use whole numbers from 0 to 2147483647, or strings. Regression targets are not supported.",
        )
    return numbers.astype(np.int64)


def _names_of(present: np.ndarray, encoded: np.ndarray, names: pa.Array) -> tuple[str, ...]:
    texts = names.cast(pa.string()).to_pylist()
    found: dict[int, str] = {}
    for row, (number, text) in enumerate(zip(encoded.tolist(), texts, strict=True)):
        known = found.setdefault(number, text)
        if text is None or known != text:
            raise DataError(
                f"Label {present[number]} is named {known!r}, but row {row} names it {text!r}.",
                "Give each class one name in data.columns.label_name.",
            )
    labels = tuple(found[number] for number in range(len(present)))
    if len(set(labels)) < len(labels):
        twice = next(name for name in labels if labels.count(name) > 1)
        raise DataError(f"Two class numbers have the name {twice!r}.", "Give each class a name of its own.")
    return labels
