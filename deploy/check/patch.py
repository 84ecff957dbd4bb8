"""JSON patches (RFC 6902), with the operations add, remove, replace and test."""

from __future__ import annotations

import copy
from typing import Any

from deploy.check.findings import CheckError, shown

OPERATIONS = ("add", "remove", "replace", "test")


def apply_patch(tree: Any, operations: list[dict[str, Any]], source: str) -> Any:
    """Return a copy of a tree with the operations carried out in order.

    Args:
        tree: Of dicts, lists and scalars.
        operations: Each with ``op``, ``path`` and, but for remove, ``value``.
        source: The patch's file, for messages.

    Raises:
        CheckError: An operation is unknown, its path leads nowhere, or a test fails.
    """
    tree = copy.deepcopy(tree)
    for operation in operations:
        _apply(tree, operation, source)
    return tree


def _apply(tree: Any, operation: dict[str, Any], source: str) -> None:
    op, path = operation.get("op"), str(operation.get("path", ""))
    if op not in OPERATIONS:
        raise CheckError(f"{source}: op is {shown(op)}; allowed are {', '.join(OPERATIONS)}.", "Write it with those.")
    if not path.startswith("/"):
        raise CheckError(f"{source}: path is {shown(path)}; it begins with '/'.", "Write the path from the top.")
    if op != "remove" and "value" not in operation:
        raise CheckError(f"{source}: {op} {path} has no value.", "Give one.")
    *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))
    here, walked = tree, ""
    for part in parents:
        here = _step(here, part, f"{source}: {op} {path}", walked)
        walked += f"/{part}"
    value = copy.deepcopy(operation.get("value"))
    if isinstance(here, list) and op == "add":
        index = len(here) if last == "-" else _index(here, last, f"{source}: {op} {path}", len(here))
        here.insert(index, value)
        return
    if isinstance(here, dict) and op == "add":
        here[last] = value
        return
    found = _step(here, last, f"{source}: {op} {path}", walked)
    key = last if isinstance(here, dict) else int(last)
    if op == "remove":
        del here[key]
    elif op == "replace":
        here[key] = value
    elif found != value:
        raise CheckError(
            f"{source}: test {path} expects {shown(value)}; there is {shown(found)}.",
            "What it patches has changed: look at the patch again.",
        )


def _step(here: Any, part: str, patch: str, walked: str) -> Any:
    if isinstance(here, dict) and part in here:
        return here[part]
    if isinstance(here, list):
        return here[_index(here, part, patch, len(here) - 1)]
    raise CheckError(f"{patch}: there is no {part!r} in {walked or '/'}.", "Correct the path, or the file it patches.")


def _index(here: list[Any], part: str, patch: str, last: int) -> int:
    if not part.isdecimal() or int(part) > last:
        raise CheckError(f"{patch}: {part!r} is no index of a list of {len(here)}.", "Correct the path.")
    return int(part)
