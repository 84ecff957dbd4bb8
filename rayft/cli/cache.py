"""The commands `rayft cache list` and `rayft cache prune`."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from rayft.cli.app import JsonOption, app

if TYPE_CHECKING:
    from rayft.prefix.evict import Held

commands = typer.Typer(no_args_is_help=True, help="Activations of frozen prefixes: list, prune.", rich_markup_mode=None)
app.add_typer(commands, name="cache")

StorageOption = Annotated[str, typer.Option("--storage", help="The `storage` of the runs: a path or URI.")]


@commands.command("list")
def list_held(storage: StorageOption = ".", as_json: JsonOption = False) -> None:
    """Show the caches of a storage, the longest unused first."""
    from rayft.prefix.evict import list_caches
    from rayft.prefix.store import CacheFolder

    folder = CacheFolder.of(storage)
    held = list_caches(folder)
    if as_json:
        print(json.dumps({"folder": folder.shared.uri, "bytes": _total(held), "caches": [_plain(one) for one in held]}))
        return
    for one in held:
        print(_line(one))
    print(f"{len(held)} caches, {_total(held):,} bytes, in {folder.shared.uri}")


@commands.command()
def prune(
    storage: StorageOption = ".",
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=0, help="What may remain; 0 if not given.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Remove caches, the longest unused first; none that is in use."""
    from rayft.prefix.evict import list_caches, prune_caches
    from rayft.prefix.store import CacheFolder

    folder = CacheFolder.of(storage)
    removed = prune_caches(folder, max_bytes)
    left = list_caches(folder)
    if as_json:
        print(json.dumps({"removed": [_plain(one) for one in removed], "bytes_left": _total(left)}))
        return
    for one in removed:
        print(f"removed  {_line(one)}")
    print(f"{len(removed)} caches, {_total(removed):,} bytes removed; {len(left)} caches, {_total(left):,} bytes left")


def _plain(held: Held) -> dict[str, object]:
    return dataclasses.asdict(held)


def _total(held: list[Held]) -> int:
    return sum(one.bytes for one in held)


def _line(held: Held) -> str:
    state = "in use" if held.in_use else "unfinished" if not held.complete else "complete"
    recipe = held.recipe
    view = (recipe.get("view") or {}).get("number")
    what = (
        f"{recipe['num_rows']:,} rows of {list(recipe['shape'])} {recipe['dtype']} at {recipe['cut']}" if recipe else ""
    )
    parts = [
        held.key,
        f"{held.bytes:>15,} bytes",
        f"{state:<10}",
        time.strftime("%F %R", time.localtime(held.last_used)),
    ]
    return "  ".join([*parts, what, *([f"view {view}"] if view is not None else [])]).rstrip()
