"""From a source to what can be served."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rayft.package.read import Package, read_package
from rayft.registry.locate import located
from rayft.registry.registry import Registry
from rayft.registry.state import Version
from rayft.serve.contract import ServedModel
from rayft.serve.engine.source import Source
from rayft.serve.predictor import Predictor


def open_source(source: Source, version: Version | None = None) -> tuple[ServedModel, Predictor]:
    """Fetch, check and open a model.

    Args:
        source: From ``find_sources``.
        version: Of the registry; None takes the one that the source leads to now.

    Raises:
        PackageError: It is damaged.
        RegistryError: The registry does not have it any more.
        StorageError: The place cannot be read.
    """
    if source.registry is None:
        with located(source.text) as place:
            package = read_package(place.folder)
        metrics = {str(name): float(value) for name, value in package.record["metrics"].items()}
        return _served(source.name, "1", (), metrics, package), Predictor(package)
    shelf = Registry.open(source.registry)
    state = shelf.state(source.name)
    version = version or state.find(source.selector)
    with tempfile.TemporaryDirectory(prefix="rayft-model-") as scratch:
        package = read_package(shelf.fetch(version, Path(scratch)))
    aliases = tuple(state.aliases_of(version.number))
    return _served(source.name, str(version.number), aliases, version.metrics, package), Predictor(package)


def _served(
    name: str, version: str, aliases: tuple[str, ...], metrics: dict[str, float], package: Package
) -> ServedModel:
    tta = package.record["preprocessing"].get("tta")
    shared = package.record["prefix"]["hash"] if package.boundary is not None and tta is None else None
    return ServedModel(
        name,
        version,
        aliases,
        metrics,
        package.labels,
        package.multi_label,
        (*package.image_size, package.channels),
        shared,
        package.identity,
    )
