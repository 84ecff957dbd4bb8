"""Requests and answers of the Open Inference Protocol v2 in protobuf."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayft.serve.contract import RequestError, ServedModel
from rayft.serve.grpc.messages import message
from rayft.serve.wire.infer import (
    ENCODED,
    OUTPUTS,
    InferRequest,
    Output,
    check_input,
    check_only,
    check_timeout,
    check_wanted,
)
from rayft.serve.wire.tensors import (
    Pictures,
    bytes_of_texts,
    check_shape,
    floats_from_contents,
    images_from_bytes,
    pictures_from_bytes,
)

_Response = message("ModelInferResponse")
_MAX_ID = 256


def read_infer(request: Any) -> InferRequest:
    """Decode a ModelInferRequest.

    Raises:
        RequestError: 400: what is wrong with it.
    """
    check_only(len(request.inputs))
    if len(request.id) > _MAX_ID:
        raise RequestError(f"id has {len(request.id)} letters; {_MAX_ID} are allowed.", "Leave it out.")
    raw = bool(request.raw_input_contents)
    timeout = _parameter(request.parameters, "timeout")
    wanted = [
        check_wanted(output.name, raw, _parameter(output.parameters, "classification") or 0)
        for output in request.outputs
    ] or [check_wanted(name, raw, 0) for name in OUTPUTS]
    if len(wanted) > len(OUTPUTS):
        raise RequestError(f"{len(wanted)} outputs are requested; {len(OUTPUTS)} are allowed.", "Name each once.")
    return InferRequest(
        request.id, _pictures(request), tuple(wanted), None if timeout is None else check_timeout(timeout)
    )


def write_answer(model: ServedModel, request_id: str, outputs: list[Output]) -> Any:
    """Encode a ModelInferResponse; outputs are all raw, or none is."""
    response = _Response(model_name=model.name, model_version=model.version, id=request_id)
    for output in outputs:
        tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        texts = isinstance(output.values, list)
        if output.binary:
            response.raw_output_contents.append(
                bytes_of_texts(output.values) if isinstance(output.values, list) else output.values.tobytes()
            )
        elif texts:
            tensor.contents.bytes_contents.extend(output.values)
        else:
            tensor.contents.fp32_contents.extend(np.ravel(output.values).tolist())
    return response


def _pictures(request: Any) -> Pictures:
    tensor = request.inputs[0]
    shape = check_shape(list(tensor.shape), "inputs[0]")
    where = check_input(tensor.name, tensor.datatype, shape)
    if "shared_memory_region" in tensor.parameters:
        raise RequestError(f"{where} lies in shared memory, which is not offered.", "Send the data itself.")
    contents = tensor.contents
    if request.raw_input_contents:
        check_only(len(request.raw_input_contents))
        if tensor.HasField("contents"):
            raise RequestError(f"{where} has contents beside raw_input_contents.", "Leave one out.")
        data = memoryview(request.raw_input_contents[0])
        return (pictures_from_bytes if tensor.datatype == ENCODED else images_from_bytes)(data, shape, where)
    if tensor.datatype == ENCODED:
        if len(contents.bytes_contents) != shape[0]:
            raise RequestError(
                f"{where}: the shape {list(shape)} has {shape[0]} elements; {len(contents.bytes_contents)} came.",
                "Correct shape or bytes_contents.",
            )
        return list(contents.bytes_contents)
    return floats_from_contents(contents.fp32_contents, shape, where)


def _parameter(parameters: Any, name: str) -> Any:
    if name not in parameters:
        return None
    found = parameters[name]
    choice = found.WhichOneof("parameter_choice")
    return None if choice is None else getattr(found, choice)
