"""The command `rayft schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from rayft.cli.app import app


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference for people instead.")] = False,
) -> None:
    """Print the JSON Schema of CONFIG, for editors."""
    from rayft.config import json_schema
    from rayft.config.reference import reference

    # The page ends in a line break of its own.
    print(reference() if markdown else json_schema(), end="" if markdown else "\n")
