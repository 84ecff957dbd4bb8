"""The command `rayft verify`."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import typer

from rayft.cli.app import ConfigArgument, JsonOption, SetOption, app
from rayft.errors import RunFailed
from rayft.quiet import native_start_up


@app.command()
def verify(config: ConfigArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Prove that 1, 2 and 3 workers train the same network."""
    from rayft.config import load_config

    settings = load_config(config, tuple(overrides or ()))
    with native_start_up():
        from rayft.distributed.verify import verify as run
    from rayft.screen import LiveLine

    with contextlib.closing(LiveLine()) as line:
        report = run(settings, on_progress=line)
    if as_json:
        print(json.dumps({"passed": report.passed, **dataclasses.asdict(report)}))
    else:
        print(f"{report.conditions}\n\n{report.table()}")
    if not report.passed:
        raise typer.Exit(RunFailed.exit_code)
