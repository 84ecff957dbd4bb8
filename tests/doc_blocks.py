"""Blocks of the documentation's pages, and how they are run.

A comment in front of a block says what its text cannot: ``<!-- not run: reason -->``, or ``<!-- file: config.yaml -->``
where the block is the content of a file that later blocks use.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("sh", "console")
_BLOCK = re.compile(r"^(?:<!-- (not run|file): ([^\n]+?) -->\n+)?```(\w+)\n(.*?)^```", re.M | re.S)
_PATIENCE_S = 400


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        page: Where it stands.
        line: Of its first line of text.
        kind: yaml, sh, console, python, ...
        text: Its content.
        not_run: Why it cannot be run; None where it is.
        file: The file that it is the content of; None where it is none.
    """

    page: Path
    line: int
    kind: str
    text: str
    not_run: str | None
    file: str | None

    @property
    def name(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    @property
    def commands(self) -> str:
        """Return a shell's input: where prompts are shown, the lines behind them."""
        lines = self.text.splitlines()
        if self.kind == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return "\n".join(lines)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    text, found = page.read_text(), []
    for match in _BLOCK.finditer(text):
        word, value, kind, content = match.groups()
        line = text.count("\n", 0, match.start(4)) + 1
        not_run, file = (value if word == each else None for each in ("not run", "file"))
        found.append(Block(page, line, kind, content, not_run, file))
    return found


def run_page(page: Path) -> None:
    """Run the blocks of a page in order in the working directory; those of Python share their names."""
    names: dict = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.not_run is not None:
            continue
        if block.file is not None:
            Path(block.file).write_text(block.text)
        elif block.kind in SHELL:
            print(f"--- {block.name}\n{block.commands}", flush=True)
            _run_shell(block)
        elif block.kind == "python":
            print(f"--- {block.name}\n{block.text}", flush=True)
            # Lines keep their numbers, so that a traceback leads to the page.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


def _run_shell(block: Block) -> None:
    process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", block.commands], start_new_session=True)
    try:
        code = process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        # With all that it started.
        os.killpg(process.pid, signal.SIGKILL)
        sys.exit(f"{block.name} has not ended after {_PATIENCE_S} s; mark it as not run, or make it shorter.")
    if code:
        sys.exit(f"{block.name} ended with the exit code {code}.")


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
