"""The folder that travels with a job: the resolved config, code of one's own, and rayft where it is not installed."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import rayft
from rayft.config import RunConfig, dump_config
from rayft.config.problems import IMPORT_PATTERN
from rayft.errors import ConfigError
from rayft.imports import load_object

CONFIG_FILE = "config.yaml"
CONSTRAINTS_FILE = "constraints.txt"
# Ray keeps packages in the memory of the head node.
MOST_BYTES = 50_000_000


def write_config(config: RunConfig, folder: Path) -> None:
    """Write the config as the job reads it: resolved, and on the cluster that the job runs in."""
    cluster = config.cluster.model_copy(update={"address": "auto"})
    (folder / CONFIG_FILE).write_text(dump_config(config.model_copy(update={"cluster": cluster})))


def add_own_code(config: RunConfig, folder: Path) -> list[str]:
    """Import what the config names by module:function, and copy the modules that come from no installed package.

    Returns:
        The copied files, relative to the folder.

    Raises:
        ConfigError: Something cannot be imported here; or the files are too large for code.
    """
    before, named = set(sys.modules), set()
    for field, path in import_paths(config.model_dump()):
        load_object(path, field)
        named.add(path.partition(":")[0])
    copied: dict[str, Path] = {}
    for name in sorted(named | set(sys.modules) - before):
        module = sys.modules.get(name)
        if module is not None and (file := own_file(module)) is not None:
            copied[_place(name, file).as_posix()] = file
    size = sum(file.stat().st_size for file in copied.values())
    if size > MOST_BYTES:
        raise ConfigError(
            f"The code that this config imports has {size:,} bytes; up to {MOST_BYTES:,} travel with a job.",
            "Install it as a package in the cluster's environment.",
        )
    for place, file in copied.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return sorted(copied)


def add_rayft(folder: Path) -> None:
    """Copy this rayft, for a cluster that has none or another."""
    shutil.copytree(
        Path(rayft.__file__).parent,
        folder / "rayft",
        ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
    )


def import_paths(tree: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield (field, module:function) of a dumped config."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from import_paths(value, f"{above}.{name}" if above else str(name))
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from import_paths(value, above)
    elif isinstance(tree, str) and re.match(IMPORT_PATTERN, tree):
        yield above, tree


def own_file(module: ModuleType) -> Path | None:
    """Return the source file of a module of the user's own; None for any other."""
    name, file = module.__name__, getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or name.startswith("__") or name.partition(".")[0] == "rayft":
        return None
    path = Path(file).resolve()
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    if {"site-packages", "dist-packages"} & set(path.parts) or any(path.is_relative_to(place) for place in installed):
        return None
    return path


def _place(name: str, file: Path) -> Path:
    """Where a module lies below the folder that it is imported from."""
    path = Path(*name.split("."))
    return path / "__init__.py" if file.name == "__init__.py" else path.with_name(f"{path.name}.py")
