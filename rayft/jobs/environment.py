"""The runtime environment of a job: where its packages come from, and what they are."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rayft.config import RunConfig
from rayft.errors import ConfigError
from rayft.jobs.bundle import CONSTRAINTS_FILE

Kind = Literal["image", "pip", "uv"]
# Ray puts the bundle there before it installs packages.
_BUNDLE = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}"


def runtime_environment(
    kind: Kind, folder: Path, *, extras: Iterable[str] = (), stop_within_s: int, setup_timeout_s: int = 1800
) -> dict[str, Any]:
    """Return Ray's runtime environment of a job.

    Args:
        kind: image: packages are those of the cluster's interpreter; pip, uv: a virtual environment on top of it.
        folder: The bundle; with pip and uv it gains a file of constraints.
        extras: Groups of rayft's optional packages that the job needs as well.
        stop_within_s: How long a stopped job may take to leave a checkpoint.
        setup_timeout_s: How long the installation may take.
    """
    environment: dict[str, Any] = {
        # Ray's supervisor of the job reads it in the job's own environment, whatever the cluster was started with.
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(stop_within_s)},
    }
    if (mode := os.environ.get("RAY_AUTH_MODE")) and mode != "token":
        environment["env_vars"]["RAY_AUTH_MODE"] = mode
    if kind != "image":
        (folder / CONSTRAINTS_FILE).write_text("".join(f"{line}\n" for line in constraints()))
        packages = [f"-c {_BUNDLE}/{CONSTRAINTS_FILE}", *requirements(extras)]
        environment[kind] = {"packages": packages}
        environment["config"] = {"setup_timeout_seconds": setup_timeout_s}
    if any(folder.iterdir()):
        environment["working_dir"] = str(folder)
    return environment


def extras_of(config: RunConfig) -> list[str]:
    """Return the groups of optional packages that a run needs."""
    extras = []
    if config.model.backbone.startswith("efficientnet_lite") and config.model.weights == "imagenet":
        extras.append("demo")
    if config.track.mlflow.uri is not None:
        extras.append("mlflow")
    return extras


def requirements(extras: Iterable[str] = ()) -> list[str]:
    """Return rayft's requirements as lines for pip, Ray left out: a job runs on the Ray of its cluster.

    Raises:
        ConfigError: rayft is not installed here, so that nobody knows what it needs.
    """
    wanted = set(extras)
    lines = []
    for line in _required("rayft"):
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", marker)
        if _name(requirement) == "ray" or (extra is not None and extra[1] not in wanted):
            continue
        rest = re.sub(r"\s*(?:and\s+)?extra\s*==\s*['\"][\w.-]+['\"]", "", marker).strip()
        lines.append(f"{requirement.strip()}; {rest}" if rest else requirement.strip())
    return lines


def constraints() -> list[str]:
    """Return ``name==version`` of rayft's requirements and theirs, as they are installed here."""
    found: dict[str, str] = {}
    names = ["rayft"]
    while names:
        for line in _required(names.pop()):
            name = _name(line)
            if name in found or name == "ray":
                continue
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
            # Such as +cpu, which another index may not have.
            found[name] = version.partition("+")[0]
            names.append(name)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _required(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        if name != "rayft":
            return []
        raise ConfigError(
            "rayft is not installed here, only importable, so its requirements are unknown.",
            "Install it (`pip install -e .`), or use --env image.",
        ) from None


def _name(requirement: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9][\w.-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
