"""The command `rayft train`."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated

import typer

from rayft.cli.app import ConfigArgument, JsonOption, LogFormatOption, SetOption, app, read_config
from rayft.quiet import native_start_up


@app.command()
def train(
    config: ConfigArgument,
    overrides: SetOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run of this name first.")] = False,
    as_json: JsonOption = False,
    log_format: LogFormatOption = "text",
) -> None:
    """Fine-tune; an unfinished run of the same name goes on where it stopped."""
    settings = read_config(config, overrides or ())
    with native_start_up():
        from rayft.distributed.run import train as run
    from rayft.observe.log import to_stderr
    from rayft.runs import RunFolder
    from rayft.screen import LiveLine, summary

    if log_format == "json":
        result = run(settings, fresh=fresh, on_event=to_stderr)
    else:
        with contextlib.closing(LiveLine()) as line:
            result = run(settings, fresh=fresh, on_progress=line)
    print(json.dumps(result) if as_json else summary(result, RunFolder.of(settings).storage))
