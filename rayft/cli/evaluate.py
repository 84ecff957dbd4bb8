"""The command `rayft evaluate`."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Literal

import typer

from rayft.cli.app import JsonOption, ModelArgument, RegistryOption, SetOption, app
from rayft.quiet import native_start_up


@app.command()
def evaluate(
    model: ModelArgument,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Labelled examples: whatever data.source allows.")],
    split: Annotated[
        Literal["all", "train", "validation", "test"] | None,
        typer.Option("--split", help="Which examples; test where the data names it, else all, if not given."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Folder for predictions.arrow, metrics.json, report.html.")
    ] = None,
    overrides: SetOption = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a package on labelled examples."""
    with native_start_up():
        from rayft.serve.evaluate import evaluate as run
    from rayft.screen import LiveLine, evaluation_summary

    with contextlib.closing(LiveLine()) as line:
        result = run(
            model,
            data,
            split=split,
            output=output,
            overrides=tuple(overrides or ()),
            registry=registry,
            on_progress=line,
        )
    print(json.dumps(result) if as_json else evaluation_summary(result, output))
