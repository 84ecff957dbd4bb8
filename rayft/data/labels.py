"""From the labels of a source to class numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayft.errors import DataError


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
