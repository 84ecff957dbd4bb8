"""What a validation found, line by line."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rayft.learn.estimate import Estimate

Verdict = Literal["ok", "warning", "failed"]
LINE_LENGTH = 110


@dataclass(frozen=True)
class Finding:
    """One line of a validation.

    Attributes:
        check: What was looked at.
        verdict: failed would stop the run; a warning would not.
        finding: What was seen.
        fix: The remedy of what failed.
    """

    check: str
    verdict: Verdict
    finding: str
    fix: str = ""


@dataclass(frozen=True)
class Validation:
    """All that was found.

    Attributes:
        findings: In the order of the checks.
        estimate: What the run will take; None where it could not be measured.
    """

    findings: tuple[Finding, ...]
    estimate: Estimate | None

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(finding.verdict != "failed" for finding in self.findings)

    def table(self) -> str:
        """Return a line for each finding, long ones broken, with the remedy of what failed."""
        checks = max(len(each.check) for each in self.findings)
        indent = " " * (len("warning  ") + checks + 2)
        lines = []
        for each in self.findings:
            words = [*each.finding.splitlines(), *([f"fix: {each.fix}"] if each.fix else [])]
            broken = [part for line in words for part in textwrap.wrap(line, LINE_LENGTH - len(indent)) or [""]]
            lines.append(f"{each.verdict:<7}  {each.check:<{checks}}  {broken[0]}")
            lines += [f"{indent}{part}" for part in broken[1:]]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        estimate = None if self.estimate is None else asdict(self.estimate)
        return {"passed": self.passed, "findings": [asdict(each) for each in self.findings], "estimate": estimate}
