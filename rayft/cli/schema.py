"""The command `rayft schema`."""

from __future__ import annotations

from rayft.cli.app import app


@app.command()
def schema() -> None:
    """Print the JSON Schema of CONFIG, for editors."""
    from rayft.config import json_schema

    print(json_schema())
