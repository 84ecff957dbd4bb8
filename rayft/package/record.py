"""package.json: what a package says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rayft.errors import PackageError

FORMAT_VERSION = 1
RECORD_FILE = "package.json"


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write package.json.

    Raises:
        ValueError: A number is not finite.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """Read package.json.

    Raises:
        PackageError: It is missing or damaged, or a newer rayft wrote it.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(
            f"{str(folder)!r} is no package: cannot read {RECORD_FILE} ({error.strerror}).",
            "Give the folder of a package, or of a finished run.",
        ) from None
    # Deep nesting exhausts the parser's stack.
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path} is damaged: {error}.", "Copy or write the package anew.") from None
    found = record.get("format_version") if isinstance(record, dict) else None
    if not isinstance(found, int) or found < 1:
        raise PackageError(f"{path} is damaged: format_version is {found!r}.", "Copy or write the package anew.")
    if found > FORMAT_VERSION:
        raise PackageError(
            f"{path} has format version {found}; this rayft reads up to {FORMAT_VERSION}.", "Install a newer rayft."
        )
    return record
