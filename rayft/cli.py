"""The command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayft.errors import DataError, RayftError, RunFailed
from rayft.quiet import native_start_up

if TYPE_CHECKING:
    from rayft.serve.predictor import Prediction, Predictor

# Commands import what they need themselves: Ray and TensorFlow take seconds.
app = typer.Typer(
    name="rayft",
    help="Fine-tune pretrained Keras networks on Ray, from one YAML file.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; `rayft schema` lists its fields.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one field; may be given many times.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
# Bounds the memory of `predict`, whatever the number of pictures.
_PICTURES_AT_ONCE = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 done, 1 the run failed, 2 wrong input, 130 interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        app(args=arguments, prog_name="rayft")
    except RayftError as error:
        problem, fix = error.args
        print(f"error: {problem}\nfix: {fix}", file=sys.stderr)
        return error.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        import rayft

        print(rayft.__version__)
        raise typer.Exit


@app.command()
def train(
    config: ConfigArgument,
    overrides: SetOption = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run of this name first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune; an unfinished run of the same name goes on where it stopped."""
    from rayft.config import load_config

    settings = load_config(config, tuple(overrides or ()))
    with native_start_up():
        from rayft.distributed.run import train as run
    from rayft.runs import RunFolder
    from rayft.screen import LiveLine, summary

    with contextlib.closing(LiveLine()) as line:
        result = run(settings, fresh=fresh, on_progress=line)
    print(json.dumps(result) if as_json else summary(result, str(RunFolder.of(settings).storage)))


@app.command()
def verify(config: ConfigArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Prove that 1, 2 and 3 workers train the same network."""
    from rayft.config import load_config

    settings = load_config(config, tuple(overrides or ()))
    with native_start_up():
        from rayft.distributed.verify import verify as run
    from rayft.screen import LiveLine

    with contextlib.closing(LiveLine()) as line:
        report = run(settings, on_progress=line)
    if as_json:
        print(json.dumps({"passed": report.passed, **dataclasses.asdict(report)}))
    else:
        print(f"{report.conditions}\n\n{report.table()}")
    if not report.passed:
        raise typer.Exit(RunFailed.exit_code)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a package or of a run; path or URI.")],
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes shown for each picture.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Say what pictures show."""
    files = list(_expand(pictures))
    with native_start_up():
        from rayft.serve.predictor import load

        predictor = load(model)
    for start in range(0, len(files), _PICTURES_AT_ONCE):
        batch = files[start : start + _PICTURES_AT_ONCE]
        answers = predictor.predict([_read(file) for file in batch], names=[str(file) for file in batch])
        for file, answer in zip(batch, answers, strict=True):
            print(_answer_line(predictor, str(file), answer, top, as_json))


@app.command()
def schema() -> None:
    """Print the JSON Schema of CONFIG, for editors."""
    from rayft.config import json_schema

    print(json_schema())


def _expand(places: Sequence[Path]) -> Iterator[Path]:
    """Yield files as they are, and the pictures below folders in order."""
    for place in places:
        if not place.is_dir():
            yield place
            continue
        found = sorted(file for file in place.rglob("*") if file.suffix.lower() in _PICTURES and file.is_file())
        if not found:
            raise DataError(
                f"The folder {str(place)!r} holds no picture ({', '.join(_PICTURES)}).",
                "Name pictures, or another folder.",
            )
        yield from found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the picture {str(file)!r}: {error.strerror}.", "Check the path.") from None


def _answer_line(predictor: Predictor, name: str, answer: Prediction, top: int, as_json: bool) -> str:
    order = answer.probabilities.argsort()[::-1][:top]
    best = [(predictor.labels[i], float(answer.probabilities[i])) for i in order]
    if not as_json:
        return "  ".join([name, *(f"{label} {probability:.3f}" for label, probability in best)])
    line = {"input": name, "label": answer.label, "probability": answer.probability}
    return json.dumps({**line, "top": [{"label": label, "probability": value} for label, value in best]})
