"""Where a served model comes from: a registered name, which moves, or a folder, which does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayft.errors import ConfigError
from rayft.package.record import read_record
from rayft.registry.locate import is_place, located
from rayft.registry.registry import DEFAULT_PLACE, Registry
from rayft.registry.state import CHAMPION, ModelState, Version


@dataclass(frozen=True)
class Source:
    """One model of the endpoint.

    Attributes:
        text: What the user calls it.
        name: What requests call it.
        registry: Path or URI of the registry; None for a package's own place.
        selector: Alias or number in the registry; empty for the champion, else the latest.
    """

    text: str
    name: str
    registry: str | None = None
    selector: str = ""

    @property
    def moves(self) -> bool:
        """Whether it can lead to another version later."""
        return self.registry is not None and not self.selector.isdigit()

    def state(self) -> ModelState:
        """Return what the registry says of the model now."""
        assert self.registry is not None
        return Registry.open(self.registry).state(self.name)

    def earlier(self, state: ModelState) -> list[Version]:
        """Return the versions that its alias led to before, the latest first; those deleted are left out."""
        alias = self.selector or CHAMPION
        return [state.versions[number] for number in reversed(state.earlier.get(alias, ())) if number in state.versions]


def find_sources(models: Sequence[str], registry: str | None = None) -> list[Source]:
    """Look up what the user calls models; a package's name is that of its run.

    Raises:
        ConfigError: Two of them have one name, or there are none.
        RegistryError: The registry has no such model or version.
        PackageError: There is no package in a folder.
    """
    if not models:
        raise ConfigError("No model is given.", "Name at least one: `rayft serve MODEL`.")
    found: dict[str, Source] = {}
    for text in models:
        source = _find(text, registry)
        if source.name in found:
            raise ConfigError(
                f"{found[source.name].text!r} and {text!r} are both called {source.name!r}; an endpoint serves one "
                "version of a name.",
                "Leave one of them out, or register it under another name.",
            )
        found[source.name] = source
    return list(found.values())


def _find(text: str, registry: str | None) -> Source:
    if is_place(text):
        with located(text) as place:
            name = str(read_record(place.folder).get("name"))
        # Replicas have other working directories.
        return Source(text if "://" in text else str(Path(text).expanduser().absolute()), name)
    shelf = Registry.open(registry or DEFAULT_PLACE)
    shelf.find(text)
    name, _, selector = text.partition("@")
    return Source(text, name, shelf.storage.uri, selector)
