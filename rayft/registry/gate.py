"""The gate: what a version must show before an alias may lead to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayft.config import GateConfig, RegistryConfig, check_section
from rayft.errors import ConfigError, RegistryError
from rayft.yaml_text import read_yaml


def read_gate(path: Path) -> GateConfig:
    """Read a gate from a YAML file: the content of the config's ``registry.gate``.

    Raises:
        ConfigError: The file is unreadable, or a value is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"Cannot read the gate {str(path)!r}: {reason}.", "Give the path of a YAML file.") from None
    return check_section(GateConfig, read_yaml(text, str(path)))


def gate_of(record: dict[str, Any]) -> GateConfig:
    """Return the gate in the config of the run that made a package; an empty one where it has none."""
    node: Any = record
    for key in ("lineage", "config", "registry"):
        node = node.get(key) if isinstance(node, dict) else None
    return check_section(RegistryConfig, node or {}).gate


def check_gate(
    gate: GateConfig, version: str, metrics: dict[str, float], size_bytes: int, latency_ms: Callable[[], float]
) -> dict[str, float]:
    """Hold a version against a gate.

    Args:
        gate: The thresholds.
        version: Its name, for messages.
        metrics: As in package.json.
        size_bytes: All files of the package.
        latency_ms: Measures the time of one picture; called only where the gate asks for it.

    Returns:
        The figures that were compared, by the name of the threshold.

    Raises:
        RegistryError: Names every threshold that is missed, with the value.
    """
    bounds: list[tuple[str, float | None, float, bool]] = [
        (f"min_metrics.{name}", metrics.get(name), bound, True) for name, bound in gate.min_metrics.items()
    ]
    bounds += [(f"max_metrics.{name}", metrics.get(name), bound, False) for name, bound in gate.max_metrics.items()]
    if gate.max_size_mb is not None:
        bounds.append(("max_size_mb", size_bytes / 1e6, gate.max_size_mb, False))
    if gate.max_latency_ms is not None:
        bounds.append(("max_latency_ms", latency_ms(), gate.max_latency_ms, False))
    missed = []
    for name, value, bound, at_least in bounds:
        if value is None:
            missed.append(f"{name} is {bound:g}, but the package has no such metric ({', '.join(sorted(metrics))})")
        elif not (value >= bound if at_least else value <= bound):
            missed.append(f"{name} is {bound:g}, the value is {value:.6g}")
    if missed:
        raise RegistryError(
            f"The gate refuses {version}: {'; '.join(missed)}.", "Register a better version, or change the gate."
        )
    return {name: float(value) for name, value, _, _ in bounds if value is not None}
