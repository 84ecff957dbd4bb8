"""The Open Inference Protocol v2 over REST: JSON, with binary tensors behind it where the client wants them.

Source: Open Inference Protocol v2; Triton's binary tensor data extension, and its raw binary request.
"""

from __future__ import annotations

from typing import Any

from rayft.serve.contract import RequestError, ServedModel
from rayft.serve.wire.infer import (
    DECODED,
    ENCODED,
    OUTPUTS,
    InferRequest,
    Output,
    Wanted,
    check_input,
    check_only,
    check_timeout,
    check_wanted,
)
from rayft.serve.wire.json_text import dump, parse_object, shown
from rayft.serve.wire.tensors import (
    Pictures,
    bytes_of_texts,
    check_shape,
    images_from_bytes,
    images_from_json,
    pictures_from_bytes,
    pictures_from_json,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
_MAX_ID = 256
_SHARED_MEMORY = "shared_memory_region"


def parse_infer(body: bytes, header_length: str | None) -> InferRequest:
    """Parse a request.

    Args:
        body: JSON, followed by binary tensors where ``header_length`` is given.
        header_length: The header of that name: bytes of JSON. With 0 the whole body is one encoded picture.

    Raises:
        RequestError: 400: what is wrong with it.
    """
    split = _split(header_length, len(body))
    view = memoryview(body)
    if split == 0:
        if not body:
            raise RequestError("The body is empty.", "Send a picture.")
        return InferRequest("", [body], tuple(Wanted(name, binary=True) for name in OUTPUTS))
    tree = parse_object(body if split is None else view[:split])
    tensors = _list(tree.get("inputs"), "inputs")
    check_only(len(tensors))
    parameters = _parameters(tree, "the request")
    timeout = parameters.get("timeout")
    return InferRequest(
        _id(tree.get("id")),
        _pictures(tensors[0], view[len(body) if split is None else split :]),
        _wanted(tree.get("outputs"), parameters),
        None if timeout is None else check_timeout(timeout),
    )


def write_infer(model: ServedModel, request_id: str, outputs: list[Output]) -> tuple[bytes, int | None]:
    """Write an answer.

    Returns:
        The body, and how many bytes of it are JSON; None if all are.
    """
    described, tails = [], []
    for output in outputs:
        facts: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if output.binary:
            tail = bytes_of_texts(output.values) if isinstance(output.values, list) else output.values.tobytes()
            facts["parameters"] = {"binary_data_size": len(tail)}
            tails.append(tail)
        elif isinstance(output.values, list):
            facts["data"] = [text.decode() for text in output.values]
        else:
            facts["data"] = output.values.reshape(-1)
        described.append(facts)
    answer = {"model_name": model.name, "model_version": model.version, "outputs": described}
    head = dump({"id": request_id, **answer} if request_id else answer)
    return (b"".join([head, *tails]), len(head)) if tails else (head, None)


def _split(header_length: str | None, size: int) -> int | None:
    if header_length is None:
        return None
    # Digits alone: int() would take signs, blanks and underlines.
    if not header_length.isascii() or not header_length.isdigit() or len(header_length) > 12:
        raise RequestError(f"{HEADER_LENGTH} is {shown(header_length)}; a number is allowed.", "Correct it.")
    split = int(header_length)
    if split > size:
        raise RequestError(f"{HEADER_LENGTH} is {split}; the body has {size} bytes.", "Correct it.")
    return split


def _pictures(tensor: Any, tail: memoryview) -> Pictures:
    if not isinstance(tensor, dict):
        raise RequestError(f"inputs[0] is {shown(tensor)}; an object is allowed.", "See the Open Inference Protocol.")
    name, datatype = tensor.get("name"), tensor.get("datatype")
    shape = check_shape(tensor.get("shape"), "inputs[0]")
    where = check_input(name, datatype, shape)
    parameters = _parameters(tensor, where)
    if _SHARED_MEMORY in parameters:
        raise RequestError(f"{where} lies in shared memory, which is not offered.", "Send the data itself.")
    size = parameters.get("binary_data_size")
    if size is None:
        if tail:
            raise RequestError(f"{len(tail)} bytes follow the JSON; no input claims them.", "Say binary_data_size.")
        read = pictures_from_json if datatype == ENCODED else images_from_json
        return read(tensor.get("data"), shape, where)
    if type(size) is not int or size != len(tail):
        raise RequestError(
            f"{where}: binary_data_size is {shown(size)}; {len(tail)} bytes follow the JSON.",
            f"Correct it, or the header {HEADER_LENGTH}.",
        )
    if "data" in tensor:
        raise RequestError(f"{where} has both data and binary_data_size.", "Leave one out.")
    return (images_from_bytes if datatype == DECODED else pictures_from_bytes)(tail, shape, where)


def _wanted(outputs: Any, parameters: dict[str, Any]) -> tuple[Wanted, ...]:
    binary = parameters.get("binary_data_output", False)
    if outputs is None or outputs == []:
        return tuple(check_wanted(name, binary, 0) for name in OUTPUTS)
    found = []
    for index, output in enumerate(_list(outputs, "outputs")):
        if not isinstance(output, dict):
            raise RequestError(f"outputs[{index}] is {shown(output)}; an object is allowed.", 'Example: {"name": ...}.')
        own = _parameters(output, f"outputs[{index}]")
        if _SHARED_MEMORY in own:
            raise RequestError(f"outputs[{index}] asks for shared memory, which is not offered.", "Leave it out.")
        found.append(
            check_wanted(output.get("name"), own.get("binary_data", binary), own.get("classification", 0)),
        )
    if len(found) > len(OUTPUTS):
        raise RequestError(f"{len(found)} outputs are requested; {len(OUTPUTS)} are allowed.", "Name each once.")
    return tuple(found)


def _id(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_ID:
        raise RequestError(f"id is {shown(value)}; a string of up to {_MAX_ID} is allowed.", "Leave it out.")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(f"{where} is {shown(value)}; a list is allowed.", "See the Open Inference Protocol.")
    return value


def _parameters(tree: dict[str, Any], where: str) -> dict[str, Any]:
    found = tree.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RequestError(f"parameters of {where} is {shown(found)}; an object is allowed.", "Leave it out.")
    return found
