"""The commands `rayft models ...`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayft.cli.app import JsonOption, RegistryOption, app
from rayft.errors import RayftError, RunFailed
from rayft.quiet import native_start_up

if TYPE_CHECKING:
    from rayft.registry.registry import Registry
    from rayft.registry.state import ModelState, Version

models = typer.Typer(help="Versions of models: register, promote, roll back, check.", no_args_is_help=True)
app.add_typer(models, name="models")

VersionArgument = Annotated[str, typer.Argument(metavar="MODEL", help="name, name@version or name@alias.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]
AliasOption = Annotated[str, typer.Option("--as", metavar="ALIAS", help="The alias.")]


@models.command()
def register(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_PACKAGE", help="Folder or archive; path or URI.")],
    name: Annotated[str | None, typer.Option("--name", help="The model's name; the run's if not given.")] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a package the next version number of a model."""
    from rayft.registry.locate import located

    shelf = _open(registry)
    with located(source, registry) as found:
        version = shelf.register(found.folder, name)
    _print(as_json, _facts(shelf.state(version.name), version), f"registered {version}")


@models.command("list")
def list_models(registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """List every model with its versions and aliases."""
    shelf = _open(registry)
    states = [shelf.state(name) for name in shelf.names()]
    facts = [_facts(state, version) for state in states for version in state.versions.values()]
    lines = [_line(state, version) for state in states for version in state.versions.values()]
    _print(as_json, {"registry": str(shelf.storage), "models": facts}, "\n".join(lines) or "no models")


@models.command()
def show(model: VersionArgument, registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """Show a model with its history, or one version with its metrics."""
    shelf = _open(registry)
    name, mark, _ = model.partition("@")
    state = shelf.state(name)
    if mark:
        version = shelf.find(model)
        facts = {**_facts(state, version), **dataclasses.asdict(version), "place": str(shelf.folder(version))}
        lines = [_line(state, version), *(f"  {key}: {value:.6g}" for key, value in sorted(version.metrics.items()))]
        _print(as_json, facts, "\n".join([*lines, f"  registered {version.at} by {version.by}", f"  {facts['place']}"]))
        return
    facts = {
        "name": name,
        "aliases": state.aliases,
        "versions": [_facts(state, version) for version in state.versions.values()],
        "deleted": sorted(state.deleted),
        "history": list(state.history),
    }
    lines = [_line(state, version) for version in state.versions.values()]
    _print(as_json, facts, "\n".join([*lines, "", "history", *map(_event, state.history)]))


@models.command()
def promote(
    model: VersionArgument,
    alias: AliasOption = "champion",
    gate: Annotated[Path | None, typer.Option("--gate", metavar="FILE", help="More thresholds, as YAML.")] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let an alias lead to a version, if it passes the gate of its run's config and of FILE."""
    from rayft.registry.registry import check_alias

    check_alias(alias)
    shelf = _open(registry)
    version = shelf.find(model)
    measured = _pass_gates(shelf, version, gate)
    before, now = shelf.promote(version, alias, facts=measured)
    _tell_move(as_json, alias, before, now, measured)


@models.command()
def rollback(
    name: NameArgument, alias: AliasOption = "champion", registry: RegistryOption = None, as_json: JsonOption = False
) -> None:
    """Let an alias lead to its previous version again."""
    before, now = _open(registry).rollback(name, alias)
    _tell_move(as_json, alias, before, now, {})


@models.command()
def delete(model: VersionArgument, registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """Delete a version for good; refused while an alias leads to it."""
    from rayft.errors import RegistryError

    if "@" not in model:
        raise RegistryError(f"{model!r} names no version.", f"Write {model}@NUMBER.")
    shelf = _open(registry)
    version = shelf.find(model)
    shelf.delete(version)
    _print(as_json, {"name": version.name, "version": version.number, "deleted": True}, f"deleted {version}")


@models.command()
def verify(model: VersionArgument, registry: RegistryOption = None, as_json: JsonOption = False) -> None:
    """Check digests, contents and golden examples of one version, or of all versions of a model."""
    from rayft.registry.locate import is_place

    if is_place(model):
        checked = [{"model": model, **_verify(model, registry)}]
        orphans: list[str] = []
    else:
        shelf = _open(registry)
        state = shelf.state(model.partition("@")[0])
        versions = [shelf.find(model)] if "@" in model else list(state.versions.values())
        checked = [{"model": str(version), **_verify(str(version), registry)} for version in versions]
        orphans = shelf.orphans(state.name)
    lines = [
        f"{row['model']}  " + (f"good, replay differs by {row['difference']:.1e}" if row["good"] else row["error"])
        for row in checked
    ]
    lines += [f"{folder}  belongs to no version: an upload that goes on, or that broke off" for folder in orphans]
    good = all(row["good"] for row in checked)
    _print(as_json, {"good": good, "checked": checked, "orphans": orphans}, "\n".join(lines) or "no versions")
    if not good:
        raise typer.Exit(RunFailed.exit_code)


def _open(registry: str | None) -> Registry:
    from rayft.registry.registry import DEFAULT_PLACE, Registry

    return Registry.open(registry or DEFAULT_PLACE)


def _verify(model: str, registry: str | None) -> dict[str, Any]:
    try:
        with native_start_up():
            from rayft.serve.predictor import load

            predictor = load(model, registry)
        difference = predictor.replay_golden()
    except RayftError as error:
        return {"good": False, "error": error.args[0]}
    return {"good": True, "difference": difference}


def _pass_gates(shelf: Registry, version: Version, gate: Path | None) -> dict[str, float]:
    """Hold a version against both gates; returns the figures compared."""
    import tempfile

    from rayft.package.record import read_record
    from rayft.registry.gate import check_gate, gate_of, read_gate

    gates = [read_gate(gate)] if gate is not None else []
    measured: dict[str, float] = {}

    def latency_ms() -> float:
        if "latency_ms" not in measured:
            with native_start_up():
                from rayft.package.read import read_package
                from rayft.serve.predictor import Predictor

                predictor = Predictor(read_package(folder))
            measured["latency_ms"] = predictor.measure_latency_ms()
        return measured["latency_ms"]

    with tempfile.TemporaryDirectory(prefix="rayft-promote-") as scratch:
        # Brings it here and checks it: an alias must not lead to a damaged package.
        folder = shelf.fetch(version, Path(scratch) / "package")
        for each in [gate_of(read_record(folder)), *gates]:
            measured |= check_gate(each, str(version), version.metrics, version.size_bytes, latency_ms)
    return measured


def _facts(state: ModelState, version: Version) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.number,
        "aliases": state.aliases_of(version.number),
        "metrics": version.metrics,
    }


def _line(state: ModelState, version: Version) -> str:
    aliases = ", ".join(state.aliases_of(version.number))
    shown = [f"{name} {value:.3f}" for name, value in version.metrics.items() if name.endswith("accuracy")]
    return "  ".join([str(version), *([f"[{aliases}]"] if aliases else []), version.at[:16], *shown])


def _event(entry: dict[str, Any]) -> str:
    alias = f" as {entry['alias']}" if "alias" in entry else ""
    return f"  {entry['at']}  {entry['action']} {entry['version']}{alias}  by {entry['by']}"


def _tell_move(as_json: bool, alias: str, before: Version | None, now: Version, measured: dict[str, float]) -> None:
    facts = {"name": now.name, "alias": alias, "version": now.number, "before": before and before.number}
    text = f"{now.name}@{alias} is version {now.number}" + (f", was {before.number}" if before else "")
    _print(as_json, {**facts, "measured": measured}, text)


def _print(as_json: bool, facts: dict[str, Any], text: str) -> None:
    print(json.dumps(facts) if as_json else text)
