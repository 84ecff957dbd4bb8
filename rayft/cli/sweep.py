"""The command `rayft sweep`."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated

import typer

from rayft.cli.app import ConfigArgument, JsonOption, LogFormatOption, SetOption, app, read_config
from rayft.errors import ConfigError
from rayft.quiet import native_start_up


@app.command()
def sweep(
    config: ConfigArgument,
    overrides: SetOption = None,
    trials: Annotated[
        str | None, typer.Option("--trials", metavar="N", help="Trials in all; +N extends a finished sweep by N.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier sweep of this name first.")] = False,
    as_json: JsonOption = False,
    log_format: LogFormatOption = "text",
) -> None:
    """Search settings, and package the best trial; an unfinished sweep of the same name goes on."""
    total, more = _read_trials(trials)
    settings = read_config(config, (*(overrides or ()), *([f"sweep.trials={total}"] if total else [])))
    with native_start_up():
        from rayft.distributed.sweep.run import sweep as run
    from rayft.observe.log import to_stderr
    from rayft.runs import RunFolder
    from rayft.sweep.table import SweepScreen, summary

    if log_format == "json":
        result = run(settings, more_trials=more, fresh=fresh, on_event=to_stderr)
    else:
        with contextlib.closing(SweepScreen(settings)) as screen:
            result = run(settings, more_trials=more, fresh=fresh, on_standing=screen)
    print(json.dumps(result) if as_json else summary(result, RunFolder.of(settings).storage))


def _read_trials(text: str | None) -> tuple[int, int]:
    """Return (trials in all, trials more); 0 for what is not given."""
    if text is None:
        return 0, 0
    digits = text.removeprefix("+")
    if not digits.isdecimal() or int(digits) == 0:
        raise ConfigError(f"--trials got {text!r}; it takes a number above 0, or one with a plus.", "Example: +8")
    return (0, int(digits)) if text.startswith("+") else (int(digits), 0)
