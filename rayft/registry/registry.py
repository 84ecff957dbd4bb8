"""The registry: versions of models, and the aliases that lead to them.

Below the registry's folder, for each model::

    <name>/log/00000001.json ...              what was done, in order; see rayft.registry.log
    <name>/packages/<digest>-<id>/...         one version's files
    <name>/claims/...                         on object stores, while an entry is being agreed on

To register is to upload the package under a name of its own and then to append one entry. A crash before the entry
leaves files that nothing leads to; a crash after it leaves a registered version. To delete is to append an entry and
then to remove the files, so a crash between leaves files without a version. ``orphans`` names both.
"""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayft.config.problems import NAME_PATTERN
from rayft.errors import PackageError, RegistryError
from rayft.package.record import read_record
from rayft.package.seal import check_seal
from rayft.registry.log import Log, timestamp
from rayft.registry.state import CHAMPION, LATEST, ModelState, Version, fold
from rayft.storage import Storage

DEFAULT_PLACE = "./registry"


@dataclass(frozen=True)
class Registry:
    """A folder of models. Safe for any number of processes at once.

    Attributes:
        storage: Where it lies.
    """

    storage: Storage
    _logs: dict[str, Log] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, place: str | os.PathLike[str] = DEFAULT_PLACE) -> Registry:
        """Return the registry at a local path or a pyarrow filesystem URI; touches nothing."""
        return cls(Storage.open(place))

    def names(self) -> list[str]:
        """Return the names of all models that have a version, sorted."""
        found = [name for name in self.storage.list(missing_ok=True) if re.fullmatch(NAME_PATTERN, name)]
        return [name for name in found if self._log(name).read()]

    def state(self, name: str) -> ModelState:
        """Return what the log of a model says now; reads only the entries that are new to this object.

        Raises:
            RegistryError: There is no such model.
        """
        check_name(name)
        entries = self._log(name).read()
        if not entries:
            raise RegistryError(
                f"The registry {self.storage} has no model {name!r}; it has {', '.join(self.names()) or 'none'}.",
                "Choose one of them, or register it; --registry or RAYFT_REGISTRY names another registry.",
            )
        return fold(name, entries)

    def find(self, model: str) -> Version:
        """Return the version that ``name``, ``name@version`` or ``name@alias`` leads to.

        Raises:
            RegistryError: There is none.
        """
        name, mark, selector = model.partition("@")
        if mark and not selector:
            raise RegistryError(f"{model!r} names no version.", f"Write {name}, {name}@2 or {name}@{CHAMPION}.")
        return self.state(name).find(selector)

    def folder(self, version: Version) -> Storage:
        """Return the folder that holds a version's package."""
        return self._packages(version.name) / version.folder

    def register(self, package: Path, name: str | None = None, *, once: bool = False) -> Version:
        """Check a local package, upload it and give it the next version number.

        Args:
            package: The package's folder.
            name: The model's name; the name of the run if not given.
            once: Return the version that has the same content already, where there is one.

        Raises:
            PackageError: It is damaged, or is none.
            RegistryError: The name is not allowed.
        """
        identity = check_seal(package)
        record = read_record(package)
        try:
            run, metrics = str(record["name"]), {str(key): float(value) for key, value in record["metrics"].items()}
            if not all(map(math.isfinite, metrics.values())):
                raise ValueError(f"metrics are {metrics}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackageError(
                f"{package / 'package.json'} lacks a proper entry: {type(error).__name__} {error}.", "Write it anew."
            ) from None
        name = run if name is None else name
        check_name(name)
        if once and (same := self._same(name, identity)) is not None:
            return same
        folder = f"{identity[:16]}-{uuid.uuid4().hex[:12]}"
        (self._packages(name) / folder).upload_folder(package)
        facts = {
            "action": "register",
            "folder": folder,
            "identity": identity,
            "size_bytes": sum(file.stat().st_size for file in package.iterdir()),
            "metrics": metrics,
            "run": run,
        }
        return self._append(name, lambda state: {**facts, "version": state.next_number})[1]

    def promote(
        self, version: Version, alias: str, *, facts: dict[str, Any] | None = None
    ) -> tuple[Version | None, Version]:
        """Let an alias lead to a version; returns where it led before, and the version.

        Args:
            version: From ``find``.
            alias: Letters, digits and _ . -, not a number.
            facts: Measurements that speak for it; kept in the history.

        Raises:
            RegistryError: The version was deleted meanwhile, or the alias is not allowed.
        """
        check_alias(alias)

        def make(state: ModelState) -> dict[str, Any]:
            state.find(str(version.number))
            return {"action": "promote", "version": version.number, "alias": alias, "facts": facts or {}}

        return self._append(version.name, make, alias)

    def rollback(self, name: str, alias: str = CHAMPION) -> tuple[Version | None, Version]:
        """Let an alias lead to its previous version; returns where it led, and where it leads now.

        Called again, it goes back one more. Versions deleted meanwhile are passed over.

        Raises:
            RegistryError: There is no such alias, or nothing before it.
        """

        def make(state: ModelState) -> dict[str, Any]:
            if alias not in state.aliases:
                raise RegistryError(
                    f"{name} has no alias {alias!r}; it has {', '.join(sorted(state.aliases)) or 'none'}.",
                    f"`rayft models promote {name}@VERSION --as {alias}` sets it.",
                )
            current = state.aliases[alias]
            left = [number for number in state.earlier[alias] if number in state.versions and number != current]
            if not left:
                raise RegistryError(
                    f"{name}@{alias} is version {current}; no version before it is left.",
                    f"Promote one: `rayft models promote {name}@VERSION --as {alias}`.",
                )
            return {"action": "rollback", "version": left[-1], "alias": alias}

        return self._append(name, make, alias)

    def delete(self, version: Version) -> None:
        """Delete a version for good; its number is never used again.

        Raises:
            RegistryError: An alias leads to it, or it is gone already.
        """

        def make(state: ModelState) -> dict[str, Any]:
            state.find(str(version.number))
            if aliases := state.aliases_of(version.number):
                raise RegistryError(
                    f"{version} is protected: {', '.join(aliases)} leads to it.",
                    f"Promote another version first: `rayft models promote {version.name}@VERSION --as {aliases[0]}`.",
                )
            return {"action": "delete", "version": version.number}

        self._append(version.name, make)
        self.folder(version).delete()

    def fetch(self, version: Version, local: Path) -> Path:
        """Bring a version's package to a local folder and check it; returns where it lies.

        Args:
            version: From ``find``.
            local: An empty or missing folder; not used where the registry is local.

        Raises:
            PackageError: A file was changed, or the package is another than was registered.
        """
        folder = self.folder(version)
        where = Path(folder.root) if folder.is_local else local
        if not folder.is_local:
            folder.download_folder(local)
        identity = check_seal(where)
        if identity != version.identity:
            raise PackageError(
                f"{where} holds another package than {version}: its manifest's sha256 is {identity}, not "
                f"{version.identity}.",
                "Restore the folder from a copy, or delete this version.",
            )
        return where

    def orphans(self, name: str) -> list[str]:
        """Name folders of packages that no version leads to: of crashes, or of uploads going on right now."""
        state = self.state(name)
        known = {version.folder for version in state.versions.values()}
        return [folder for folder in self._packages(name).list(missing_ok=True) if folder not in known]

    def _same(self, name: str, identity: str) -> Version | None:
        versions = fold(name, self._log(name).read()).versions.values()
        return next((version for version in versions if version.identity == identity), None)

    def _append(
        self, name: str, make: Callable[[ModelState], dict[str, Any]], alias: str | None = None
    ) -> tuple[Version | None, Version]:
        """Append an entry that fits the state it meets; returns the alias's version before, and the entry's."""
        check_name(name)
        before: ModelState = fold(name, ())
        stamp = {"at": timestamp(), "by": _who()}

        def make_entry(entries: list[dict[str, Any]]) -> dict[str, Any]:
            nonlocal before
            before = fold(name, entries)
            return {**make(before), **stamp}

        entry = self._log(name).append(make_entry)
        versions = fold(name, [*before.history, entry]).versions | before.versions
        previous = before.aliases.get(alias) if alias is not None else None
        return None if previous is None else versions[previous], versions[entry["version"]]

    def _log(self, name: str) -> Log:
        where = self.storage / name
        return self._logs.setdefault(name, Log(where / "log", where / "claims"))

    def _packages(self, name: str) -> Storage:
        return self.storage / name / "packages"


def check_name(name: str) -> None:
    """Raise RegistryError unless a model may have this name."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise RegistryError(
            f"The model's name is {name!r}; at most 100 letters, digits and _ . - are allowed, the first a letter or "
            "digit.",
            "Give another name with --name.",
        )


def check_alias(alias: str) -> None:
    """Raise RegistryError unless an alias may have this name."""
    if not re.fullmatch(NAME_PATTERN, alias) or alias.isdigit() or alias == LATEST:
        raise RegistryError(
            f"The alias is {alias!r}; letters, digits and _ . - are allowed, but no number and not {LATEST!r}.",
            f"Use {CHAMPION}, for example.",
        )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container's user need not have a name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
