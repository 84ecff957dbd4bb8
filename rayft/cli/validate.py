"""The command `rayft validate`."""

from __future__ import annotations

import contextlib
import json

import typer

from rayft.cli.app import ConfigArgument, JsonOption, SetOption, app
from rayft.errors import ConfigError
from rayft.quiet import native_start_up


@app.command()
def validate(config: ConfigArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Check all that a run needs, and estimate time, memory and disk from real steps; writes nothing."""
    with native_start_up():
        from rayft.distributed.validate import validate_file
    from rayft.screen import LiveLine

    with contextlib.closing(LiveLine()) as line:
        done = validate_file(config, tuple(overrides or ()), on_progress=line)
    if as_json:
        print(json.dumps(done.as_dict()))
    else:
        print(done.table())
        if done.estimate is not None:
            print(f"\n{done.estimate.in_words()}")
    if not done.passed:
        raise typer.Exit(ConfigError.exit_code)
