"""A predictor applied to rows of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rayft.data.inputs import Inputs
from rayft.errors import DataError
from rayft.serve.answers import Answer
from rayft.serve.predictor import Predictor

# Bounds the memory, whatever the number of pictures.
BATCH = 32


def answer_all(predictor: Predictor, inputs: Inputs) -> Iterator[list[Answer]]:
    """Yield the answers to all inputs in order, some at a time."""
    for start in range(0, len(inputs), BATCH):
        yield answer_rows(predictor, inputs, range(start, min(start + BATCH, len(inputs))))


def answer_rows(predictor: Predictor, inputs: Inputs, rows: Sequence[int]) -> list[Answer]:
    """Answer some rows; a picture that cannot be used gives its error and leaves the others alone."""
    names = [inputs.names[row].as_py() for row in rows]
    answers: list[Answer | None] = [None] * len(names)
    contents: dict[int, bytes] = {}
    for place, row in enumerate(rows):
        try:
            contents[place] = inputs.read(row)
        except DataError as error:
            answers[place] = Answer(names[place], None, error.args[0])
    try:
        found = predictor.predict(list(contents.values()), names=[names[place] for place in contents])
        for place, prediction in zip(contents, found, strict=True):
            answers[place] = Answer(names[place], prediction.probabilities)
    except DataError:
        # One of them is bad; alone, each says whether it is the one.
        for place, content in contents.items():
            answers[place] = _answer_one(predictor, content, names[place])
    return [answer for answer in answers if answer is not None]


def _answer_one(predictor: Predictor, content: bytes, name: str) -> Answer:
    try:
        (prediction,) = predictor.predict([content], names=[name])
    except DataError as error:
        return Answer(name, None, error.args[0])
    return Answer(name, prediction.probabilities)
