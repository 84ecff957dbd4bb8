"""Requests and answers of the Open Inference Protocol v2, apart from how they are written.

Source: Open Inference Protocol v2 (KServe); Triton's classification extension for ``classes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rayft.serve.contract import RequestError, ServedModel
from rayft.serve.wire.json_text import shown
from rayft.serve.wire.rows import best_labels
from rayft.serve.wire.tensors import Pictures

ENCODED, DECODED = "BYTES", "FP32"
_INPUTS = {ENCODED: ("image",), DECODED: ("image", "images")}
PROBABILITIES, LABEL = "probabilities", "label"
OUTPUTS = (PROBABILITIES, LABEL)


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for.

    Attributes:
        name: One of OUTPUTS.
        binary: Whether it is wanted as bytes.
        classes: Above 0: that many classes as texts ``value:index:label`` in the place of probabilities.
    """

    name: str
    binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A request, decoded.

    Attributes:
        id: Given by the client, returned to it; empty without one.
        pictures: Encoded pictures, or decoded ones float32 of any shape.
        wanted: The outputs, in the order of the answer.
        timeout_s: After that the client does not wait any more; None if it did not say.
    """

    id: str
    pictures: Pictures
    wanted: tuple[Wanted, ...]
    timeout_s: float | None = None


@dataclass(frozen=True)
class Output:
    """A tensor of an answer; ``values`` are float32 in the shape, or texts, one after the other."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: np.ndarray | list[bytes]
    binary: bool


def check_input(name: Any, datatype: Any, shape: tuple[int, ...]) -> str:
    """Tell what an input tensor is to be; returns where it is, for errors.

    Raises:
        RequestError: 400: another name, datatype or rank than allowed.
    """
    where = f"inputs {shown(name)}"
    if datatype not in (ENCODED, DECODED):
        raise RequestError(
            f"{where} has the datatype {shown(datatype)}; {ENCODED} and {DECODED} are allowed.",
            f"Send encoded pictures as {ENCODED}, or decoded ones as {DECODED}.",
        )
    if name not in _INPUTS[datatype]:
        raise RequestError(
            f"The input of {datatype} is called {shown(name)}; {' and '.join(_INPUTS[datatype])} are allowed.",
            "Call it image.",
        )
    rank, form = (1, "[n]") if datatype == ENCODED else (4, "[n, height, width, channels]")
    if len(shape) != rank or not shape[0]:
        raise RequestError(
            f"{where} of {datatype} has the shape {list(shape)}; {form} with n above 0 is allowed.", "Correct it."
        )
    return where


def check_only(tensors: int) -> None:
    """Refuse any number of input tensors but one."""
    if tensors != 1:
        raise RequestError(f"The request has {tensors} inputs; 1 is allowed.", "Send the one input image.")


def check_wanted(name: Any, binary: Any, classes: Any) -> Wanted:
    """Return a requested output.

    Raises:
        RequestError: 400: there is none of that name, or its parameters are wrong.
    """
    if name not in OUTPUTS:
        raise RequestError(f"outputs has {shown(name)}; {' and '.join(OUTPUTS)} are allowed.", "Leave outputs out.")
    if not isinstance(binary, bool):
        raise RequestError(f"binary_data is {shown(binary)}; true and false are allowed.", "Correct it.")
    if type(classes) is not int or classes < 0 or (classes and name != PROBABILITIES):
        raise RequestError(
            f"classification of {name} is {shown(classes)}; 1 or more is allowed, for probabilities alone.",
            "Leave it out.",
        )
    return Wanted(name, binary, classes)


def check_timeout(microseconds: Any) -> float | None:
    """Return the seconds of the parameter ``timeout``, which counts microseconds; 0 is none."""
    if type(microseconds) is not int or not 0 <= microseconds < 2**63:
        raise RequestError(f"timeout is {shown(microseconds)}; a number of microseconds is allowed.", "Leave it out.")
    return microseconds / 1e6 if microseconds else None


def outputs(model: ServedModel, probabilities: np.ndarray, wanted: tuple[Wanted, ...]) -> list[Output]:
    """Return the tensors of an answer.

    Args:
        model: What answered.
        probabilities: float32 [n, classes].
        wanted: In the order of the answer.
    """
    return [_output(model, np.ascontiguousarray(probabilities, np.float32), each) for each in wanted]


def _output(model: ServedModel, probabilities: np.ndarray, wanted: Wanted) -> Output:
    count = len(probabilities)
    if wanted.name == LABEL:
        return Output(LABEL, ENCODED, (count,), best_labels(model.labels, probabilities), wanted.binary)
    if not wanted.classes:
        return Output(PROBABILITIES, DECODED, probabilities.shape, probabilities, wanted.binary)
    classes = min(wanted.classes, probabilities.shape[1])
    texts = [
        f"{row[index]:f}:{index}:{model.labels[index]}".encode()
        for row in probabilities
        for index in np.argsort(-row, kind="stable")[:classes]
    ]
    return Output(PROBABILITIES, ENCODED, (count, classes), texts, wanted.binary)
