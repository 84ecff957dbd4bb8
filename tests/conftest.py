"""Marks of the test folders, and what every test needs."""

from pathlib import Path

import pytest

_FOLDERS = {"unit", "distributed", "integration", "e2e"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = Path(item.path).relative_to(Path(__file__).parent).parts[0]
        if folder in _FOLDERS:
            item.add_marker(folder)
