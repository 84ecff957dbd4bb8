"""The registration of a finished run."""

from __future__ import annotations

from typing import Any

from rayft.config import RunConfig
from rayft.registry.locate import located
from rayft.registry.registry import DEFAULT_PLACE, Registry
from rayft.runs import RunFolder


def register_run(folder: RunFolder, config: RunConfig, result: dict[str, Any]) -> dict[str, Any]:
    """Do what ``register_result`` does, and say so in the run's folder."""
    registered = register_result(config, result)
    if registered != result:
        folder.write_result(registered)
    return registered


def register_result(config: RunConfig, result: dict[str, Any]) -> dict[str, Any]:
    """Register a run's package where ``registry.register`` asks for it and it was not done yet.

    Args:
        config: The run.
        result: The content of ``result.json``.

    Returns:
        The result, with ``registered`` as ``name@version``.
    """
    name = config.registry.register
    if name is None or "registered" in result:
        return result
    registry = Registry.open(config.registry.location or DEFAULT_PLACE)
    with located(result["package"]) as found:
        # Once: a crash after the registration, before result.json, must not give a second version.
        version = registry.register(found.folder, name, once=True)
    return {**result, "registered": str(version)}
