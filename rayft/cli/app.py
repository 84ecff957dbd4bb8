"""The application that commands join, and the options that several of them share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rayft.errors import RayftError

if TYPE_CHECKING:
    from rayft.config import RunConfig

# Commands import what they need themselves: Ray and TensorFlow take seconds.
app = typer.Typer(
    name="rayft",
    help="Fine-tune pretrained Keras networks on Ray, from one YAML file.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# The command that runs, for the error that may end it.
_log_format = "text"


def _note_log_format(value: str) -> str:
    global _log_format
    _log_format = value
    return value


def tell_error(error: RayftError) -> None:
    """Print an error on stderr as the command's --log-format says."""
    problem, fix = error.args
    if _log_format == "json":
        from rayft.observe.log import to_stderr
        from rayft.observe.sink import Events

        Events(to_stderr, run="").event("error", level="error", problem=problem, fix=fix, exit_code=error.exit_code)
    else:
        print(f"error: {problem}\nfix: {fix}", file=sys.stderr)


ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `rayft schema` lists its fields.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one field; may be given many times.")
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Path or URI of a package, run or archive; or name, name@version, name@alias.",
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="RAYFT_REGISTRY",
        metavar="PLACE",
        help="Path or URI; ./registry if not given.",
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The cluster's dashboard, such as http://head:8265.",
    ),
]
LogFormatOption = Annotated[
    Literal["text", "json"],
    typer.Option(
        "--log-format",
        envvar="RAYFT_LOG_FORMAT",
        help="What stderr gets: progress for people, or a line of JSON for each event.",
        callback=_note_log_format,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def read_config(path: Path, overrides: Sequence[str]) -> RunConfig:
    """Load a config; RAYFT_REGISTRY stands in where it names no place of the registry.

    Raises:
        ConfigError: The file is unreadable, or a value is not allowed.
    """
    from rayft.config import load_config

    settings = load_config(path, tuple(overrides))
    registry = os.environ.get("RAYFT_REGISTRY")
    if not registry or settings.registry.location is not None:
        return settings
    return load_config(path, (*overrides, f"registry.location={json.dumps(registry)}"))


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    _note_log_format("text")
    if version:
        import rayft

        print(rayft.__version__)
        raise typer.Exit
