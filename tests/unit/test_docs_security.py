"""Every test that docs/security.md names exists."""

import re

import pytest
from doc_blocks import ROOT

NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "security.md").read_text())


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_claim_names_a_test_that_exists(file, name):
    text = (ROOT / file).read_text()
    assert f"def {name or 'test_'}" in text


def test_every_row_names_one():
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    assert [row for row in rows if "test |" not in row and "`tests/" not in row] == []
