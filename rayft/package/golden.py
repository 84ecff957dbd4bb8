"""golden.arrow: raw inputs with the answers that evaluation gave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rayft.errors import PackageError
from rayft.package.seal import GOLDEN_FILE

NUM_EXAMPLES = 8
# Largest difference of a probability; reduced precision rounds differently in every fused kernel.
TOLERANCES = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}

_SCHEMA = pa.schema([("input", pa.binary()), ("probabilities", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class Golden:
    """Inputs with their expected answers.

    Attributes:
        inputs: Encoded pictures, as the dataset holds them.
        probabilities: float32 [n, classes].
    """

    inputs: tuple[bytes, ...]
    probabilities: np.ndarray


def choose_rows(size: int) -> np.ndarray:
    """Return up to NUM_EXAMPLES positions, spread over a split of ``size`` examples."""
    return np.unique(np.linspace(0, size - 1, min(size, NUM_EXAMPLES)).round().astype(np.int64))


def write_golden(folder: Path, golden: Golden) -> None:
    """Write golden.arrow, an Arrow IPC file."""
    table = pa.table(
        [pa.array(golden.inputs, pa.binary()), pa.array(golden.probabilities.tolist(), _SCHEMA.field(1).type)],
        schema=_SCHEMA,
    )
    with pa.OSFile(str(folder / GOLDEN_FILE), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        writer.write_table(table)


def read_golden(folder: Path, num_classes: int) -> Golden:
    """Read golden.arrow.

    Raises:
        PackageError: It is damaged, or its answers have another number of classes.
    """
    path = folder / GOLDEN_FILE
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
            table.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PackageError(f"{path} is damaged: {reason}.", "Copy or write the package anew.") from None
    if not table.schema.equals(_SCHEMA) or table.num_rows == 0 or any(column.null_count for column in table.columns):
        raise PackageError(
            f"{path} holds {table.num_rows} rows of {', '.join(map(str, table.schema.types))}.", "Write it anew."
        )
    rows = table["probabilities"].to_pylist()
    if {len(row) for row in rows} != {num_classes}:
        raise PackageError(f"{path} has not {num_classes} probabilities a row.", "Write the package anew.")
    return Golden(tuple(table["input"].to_pylist()), np.asarray(rows, np.float32))
