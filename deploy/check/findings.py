"""What a check found wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LONGEST = 100


@dataclass(frozen=True)
class Finding:
    """One thing that has to change.

    Attributes:
        file: Where it stands, relative to the repository or as it was given.
        path: Within the file: kind, name and fields, or a line.
        problem: The value, and what is allowed.
        fix: What to do.
        rule: Name of the rule, for tests and for searching.
    """

    file: str
    path: str
    problem: str
    fix: str
    rule: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path}: {self.problem} [{self.rule}]\n  fix: {self.fix}"


class CheckError(Exception):
    """A file that cannot be checked at all. Keeps both args so it pickles."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)

    def __str__(self) -> str:
        return "{}\n  fix: {}".format(*self.args)


def shown(value: Any) -> str:
    """Return a value as a finding names it: short."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
