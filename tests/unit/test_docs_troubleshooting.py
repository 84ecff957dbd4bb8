"""Messages of docs/troubleshooting.md are those that the program prints."""

import ast
import re

import pytest
from doc_blocks import ROOT, blocks_of

PAGE = ROOT / "docs" / "troubleshooting.md"
LINES = [line for block in blocks_of(PAGE) if block.kind == "text" for line in block.text.splitlines()]
HOLE = "\0"
PREFIX = re.compile(r"^(note: |error: | *fix: |failed +\w+ +)")


def literal(node):
    """The text of a string, with a hole for each value that is put in; None for what is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return None


@pytest.fixture(scope="module")
def patterns():
    """A regular expression for each string of the source that says something."""
    found = set()
    for path in (ROOT / "rayft").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = literal(node)
            if text is not None and sum(letter.isalpha() for letter in text) >= 8:
                found.add(text)
    return [re.compile(re.escape(text.strip()).replace(HOLE, ".*?"), re.S) for text in found]


def is_printed(line, patterns):
    text, prefixes = PREFIX.subn("", line)
    return prefixes == 1 and any(pattern.fullmatch(text) for pattern in patterns)


@pytest.mark.parametrize("line", LINES)
def test_a_message_is_one_of_the_program(line, patterns):
    assert is_printed(line, patterns) or is_printed(f"{line}\n\0", patterns), line


def test_another_message_is_not(patterns):
    assert not is_printed("error: The loss is nan in epoch 1, step 12.", patterns)
    assert not is_printed("hint: Lower the rate.", patterns)
