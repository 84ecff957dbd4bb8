"""The command line, a module for each command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rayft.cli import (
    cache,
    data,
    evaluate,
    export,
    init,
    keys,
    models,
    predict,
    schema,
    serve,
    sweep,
    train,
    validate,
    verify,
)
from rayft.cli.app import app
from rayft.errors import RayftError

__all__ = [
    "cache",
    "data",
    "evaluate",
    "export",
    "init",
    "keys",
    "main",
    "models",
    "predict",
    "schema",
    "serve",
    "sweep",
    "train",
    "validate",
    "verify",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 the run failed, 2 wrong input, 130 interrupted."""
    try:
        app(args=arguments, prog_name="rayft")
    except RayftError as error:
        problem, fix = error.args
        print(f"error: {problem}\nfix: {fix}", file=sys.stderr)
        return error.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0
