"""The commands `rayft keys ...`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from rayft.cli.app import JsonOption, app

commands = typer.Typer(
    no_args_is_help=True, help="API keys of an endpoint: create, list, revoke.", rich_markup_mode=None
)
app.add_typer(commands, name="keys")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="File of keys; holds their hashes alone.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Who uses the key.")]


@commands.command()
def create(
    file: FileArgument,
    name: NameArgument,
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="NAME", help="May be reached; every model if not given.")
    ] = None,
    days: Annotated[float | None, typer.Option("--days", min=0, help="After so many it is refused.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it, this once."""
    from rayft.serve.keys import create_key

    secret = create_key(file, name, models or (), days)
    print(json.dumps({"name": name, "key": secret}) if as_json else secret)


@commands.command("list")
def list_keys(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show names, scopes and ends of the keys, never the keys."""
    from rayft.serve.keys import read_keys

    found = [
        {"name": key.name, "models": list(key.models), "created": _date(key.created), "expires": _date(key.expires)}
        for key in read_keys(file)
    ]
    if as_json:
        print(json.dumps({"keys": found}))
        return
    for key in found:
        models, end = ", ".join(key["models"] or ()), f"until {key['expires']}" if key["expires"] else "for good"
        print(f"{key['name']}  {models}  since {key['created']}, {end}")
    if not found:
        print("no keys")


@commands.command()
def revoke(file: FileArgument, name: NameArgument, as_json: JsonOption = False) -> None:
    """Remove a key; running endpoints refuse it within a second or two."""
    from rayft.serve.keys import revoke_key

    revoke_key(file, name)
    print(json.dumps({"name": name, "revoked": True}) if as_json else f"revoked {name}")


def _date(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%FT%TZ", time.gmtime(seconds))
