"""The command `rayft verify`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from typing import Annotated

import typer

from rayft.cli.app import ConfigArgument, JsonOption, SetOption, app
from rayft.errors import ConfigError, RunFailed
from rayft.quiet import native_start_up


@app.command()
def verify(
    config: ConfigArgument,
    overrides: SetOption = None,
    workers: Annotated[str, typer.Option("--workers", help="Worker counts to compare.")] = "1,2,3",
    as_json: JsonOption = False,
) -> None:
    """Prove that 1, 2 and 3 workers train the same network."""
    from rayft.config import load_config

    settings = load_config(config, tuple(overrides or ()))
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", workers):
        raise ConfigError(
            f"--workers is {workers!r}; numbers with commas between are allowed.", "Example: --workers 1,2"
        )
    counts = tuple(map(int, workers.split(",")))
    with native_start_up():
        from rayft.distributed.verify import verify as run
    from rayft.screen import LiveLine

    with contextlib.closing(LiveLine()) as line:
        report = run(settings, worker_counts=counts, on_progress=line)
    if as_json:
        print(json.dumps({"passed": report.passed, **dataclasses.asdict(report)}))
    else:
        print(f"{report.conditions}\n\n{report.table()}")
    if not report.passed:
        raise typer.Exit(RunFailed.exit_code)
