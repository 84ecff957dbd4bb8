"""The command `rayft predict`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayft.cli.app import JsonOption, app
from rayft.errors import DataError
from rayft.quiet import native_start_up

if TYPE_CHECKING:
    from rayft.serve.predictor import Prediction, Predictor

_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
# Bounds the memory of `predict`, whatever the number of pictures.
_PICTURES_AT_ONCE = 32


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
