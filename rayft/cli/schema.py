"""The command `rayft schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rayft.cli.app import app


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference for people instead.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Of the file that `rayft serve --config` reads.")] = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Of the metrics that Prometheus scrapes.")] = False,
) -> None:
    """Print the JSON Schema of CONFIG, for editors."""
    if metrics:
        _print_metrics(markdown=markdown)
        return
    from rayft.config import RunConfig, ServeConfig, json_schema
    from rayft.config.reference import reference, serve_reference

    if markdown:
        # The page ends in a line break of its own.
        print(serve_reference() if serve else reference(), end="")
    else:
        print(json_schema(ServeConfig if serve else RunConfig))


def _print_metrics(*, markdown: bool) -> None:
    from dataclasses import asdict

    from rayft.observe.names import METRICS, scraped_name
    from rayft.observe.table import metrics_table

    if markdown:
        print(metrics_table(), end="")
    else:
        print(
            json.dumps({scraped_name(name): {"name": name, **asdict(each)} for name, each in METRICS.items()}, indent=2)
        )
