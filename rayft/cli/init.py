"""The command `rayft init`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rayft.cli.app import JsonOption, SetOption, app
from rayft.errors import ConfigError
from rayft.quiet import native_start_up


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="What data.source would be: a folder, file or URI.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")] = Path("config.yaml"),
    overrides: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at the data and write a config that suits it, with the reason for each choice."""
    from rayft.config import parse_config
    from rayft.config.files import with_overrides

    if output.exists() and not force:
        raise ConfigError(f"{str(output)!r} exists.", "Give another name with -o, or --force to write over it.")
    tree = with_overrides({"data": {"source": data}}, overrides or ())
    config = parse_config(tree)
    with native_start_up():
        from rayft.data.starter import choose, notes_on, render, with_given
        from rayft.data.survey import survey
    from rayft.screen import LiveLine

    with contextlib.closing(LiveLine()) as line:
        found = survey(config, lambda text: line({"phase": text}))
    choices, notes = with_given(choose(found, len(os.sched_getaffinity(0))), tree), notes_on(found)
    text = render(choices, notes)
    # What is written must be a config; a fault here is ours.
    parse_config(_read(text))
    _write(output, text)
    if as_json:
        values = {choice.field: {"value": choice.value, "reason": choice.reason} for choice in choices}
        print(json.dumps({"config": str(output), "choices": values, "notes": notes}))
    else:
        print(text, end="")
        print(f"\nwrote {output}; next: rayft train {output}", file=sys.stderr)


def _read(text: str) -> dict:
    from rayft.yaml_text import read_yaml

    return read_yaml(text, "the config that init made")


def _write(output: Path, text: str) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot write {str(output)!r}: {error.strerror}.", "Give another place with -o.") from None
