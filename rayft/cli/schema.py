"""The command `rayft schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from rayft.cli.app import app


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference for people instead.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Of the file that `rayft serve --config` reads.")] = False,
) -> None:
    """Print the JSON Schema of CONFIG, for editors."""
    from rayft.config import RunConfig, ServeConfig, json_schema
    from rayft.config.reference import reference, serve_reference

    if markdown:
        # The page ends in a line break of its own.
        print(serve_reference() if serve else reference(), end="")
    else:
        print(json_schema(ServeConfig if serve else RunConfig))
