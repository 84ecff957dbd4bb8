"""What a model's log says: its versions, its aliases, who did what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from rayft.errors import RegistryError

CHAMPION = "champion"
LATEST = "latest"


@dataclass(frozen=True)
class Version:
    """One registered package; never changes.

    Attributes:
        name: The model's name.
        number: 1, 2, 3 and so on.
        folder: Name of its folder among the model's packages.
        identity: The sha256 of its manifest.
        size_bytes: All its files.
        metrics: As in package.json.
        run: Name of the run that made it.
        at: When it was registered, ISO 8601.
        by: Who registered it.
    """

    name: str
    number: int
    folder: str
    identity: str
    size_bytes: int
    metrics: dict[str, float]
    run: str
    at: str
    by: str

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class ModelState:
    """The fold of a model's log.

    Attributes:
        name: The model's name.
        versions: Those that are not deleted, by number.
        deleted: Numbers of deleted versions with their folders.
        aliases: Version number by alias.
        earlier: For each alias, the numbers that a rollback goes back to, latest last.
        history: All entries, oldest first.
    """

    name: str
    versions: dict[int, Version]
    deleted: dict[int, str]
    aliases: dict[str, int]
    earlier: dict[str, tuple[int, ...]]
    history: tuple[dict[str, Any], ...]

    @property
    def next_number(self) -> int:
        """The number that the next version gets; numbers are never used again."""
        return max([0, *self.versions, *self.deleted]) + 1

    def aliases_of(self, number: int) -> list[str]:
        """Return the sorted aliases that lead to a version."""
        return sorted(alias for alias, target in self.aliases.items() if target == number)

    def find(self, selector: str = "") -> Version:
        """Return a version by number or alias; by default the champion, else the latest.

        Raises:
            RegistryError: There is none; lists what there is.
        """
        number: int | None
        if selector.isdigit():
            number = int(selector)
        elif selector in self.aliases:
            number = self.aliases[selector]
        elif selector in ("", LATEST):
            latest = max(self.versions, default=None)
            number = latest if selector else self.aliases.get(CHAMPION, latest)
        else:
            number = None
        if number is None or number not in self.versions:
            gone = " was deleted" if number in self.deleted else " does not exist"
            there = [*map(str, self.versions), *sorted(self.aliases)]
            raise RegistryError(
                f"{self.name}@{selector}{gone}; there are {', '.join(there) or 'no versions'}.",
                f"Choose one of them; `rayft models show {self.name}` tells more.",
            )
        return self.versions[number]


def fold(name: str, entries: Iterable[dict[str, Any]]) -> ModelState:
    """Turn the entries of a log into the state after them."""
    history = tuple(entries)
    state = ModelState(name, {}, {}, {}, {}, history)
    for entry in history:
        state = _STEPS[entry["action"]](state, entry)
    return state


def _register(state: ModelState, entry: dict[str, Any]) -> ModelState:
    fields = ("folder", "identity", "size_bytes", "metrics", "run", "at", "by")
    version = Version(state.name, entry["version"], **{field: entry[field] for field in fields})
    return replace(state, versions={**state.versions, version.number: version})


def _promote(state: ModelState, entry: dict[str, Any]) -> ModelState:
    alias, number = entry["alias"], entry["version"]
    before, earlier = state.aliases.get(alias), state.earlier.get(alias, ())
    if before not in (None, number):
        earlier = (*earlier, before)
    return replace(state, aliases={**state.aliases, alias: number}, earlier={**state.earlier, alias: earlier})


def _rollback(state: ModelState, entry: dict[str, Any]) -> ModelState:
    alias, number = entry["alias"], entry["version"]
    earlier = state.earlier[alias]
    # Deleted versions on the way are left out for good.
    index = len(earlier) - 1 - earlier[::-1].index(number)
    return replace(state, aliases={**state.aliases, alias: number}, earlier={**state.earlier, alias: earlier[:index]})


def _delete(state: ModelState, entry: dict[str, Any]) -> ModelState:
    number = entry["version"]
    kept = {other: version for other, version in state.versions.items() if other != number}
    return replace(state, versions=kept, deleted={**state.deleted, number: state.versions[number].folder})


_STEPS = {"register": _register, "promote": _promote, "rollback": _rollback, "delete": _delete}
