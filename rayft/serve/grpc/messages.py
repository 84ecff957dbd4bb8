"""Messages of ``inference.GRPCInferenceService``, in a pool of their own.

Published clients register the same names in the default pool; two of them, or one and we, could not live in one
process otherwise.

Source: Open Inference Protocol v2, field numbers of its published definition.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "uint32": _Field.TYPE_UINT32,
    "uint64": _Field.TYPE_UINT64,
}
# A type followed by * is repeated; "parameters" is a map from texts to InferParameter.
_PARAMETERS = "map"
_NAMED = "name string 1, version string 2"
_TENSOR = "name string 1, datatype string 2, shape int64* 3"
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live bool 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready bool 1",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "ready bool 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name string 1, version string 2, extensions string* 3",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelMetadataResponse": "name string 1, versions string* 2, platform string 3, "
    "inputs ModelMetadataResponse.TensorMetadata* 4, outputs ModelMetadataResponse.TensorMetadata* 5",
    "InferParameter": "bool_param bool 1, int64_param int64 2, string_param string 3, double_param double 4, "
    "uint64_param uint64 5",
    "InferTensorContents": "bool_contents bool* 1, int_contents int32* 2, int64_contents int64* 3, "
    "uint_contents uint32* 4, uint64_contents uint64* 5, fp32_contents float* 6, fp64_contents double* 7, "
    "bytes_contents bytes* 8",
    "ModelInferRequest.InferInputTensor": f"{_TENSOR}, parameters map 4, contents InferTensorContents 5",
    "ModelInferRequest.InferRequestedOutputTensor": "name string 1, parameters map 2",
    "ModelInferRequest": "model_name string 1, model_version string 2, id string 3, parameters map 4, "
    "inputs ModelInferRequest.InferInputTensor* 5, outputs ModelInferRequest.InferRequestedOutputTensor* 6, "
    "raw_input_contents bytes* 7",
    "ModelInferResponse.InferOutputTensor": f"{_TENSOR}, parameters map 4, contents InferTensorContents 5",
    "ModelInferResponse": "model_name string 1, model_version string 2, id string 3, parameters map 4, "
    "outputs ModelInferResponse.InferOutputTensor* 5, raw_output_contents bytes* 6",
}
_CHOICE = "InferParameter"


def _define() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="rayft_inference.proto", package=PACKAGE, syntax="proto3")
    # Those within others come last, when the outer ones are there.
    made: dict[str, Any] = {}
    for name in sorted(_MESSAGES, key=lambda name: name.count(".")):
        outer, _, own = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=own)
    for name, fields in _MESSAGES.items():
        if name == _CHOICE:
            made[name].oneof_decl.add(name="parameter_choice")
        for text in filter(None, fields.split(", ")):
            _add_field(made[name], name, *text.split())
    return file


def _add_field(message: Any, path: str, name: str, kind: str, number: str) -> None:
    repeated = kind.endswith("*") or kind == _PARAMETERS
    field = message.field.add(
        name=name, number=int(number), label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    )
    kind = kind.rstrip("*")
    if path == _CHOICE:
        field.oneof_index = 0
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _Field.TYPE_MESSAGE
    if kind == _PARAMETERS:
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        entry.field.add(
            name="value",
            number=2,
            label=_Field.LABEL_OPTIONAL,
            type=_Field.TYPE_MESSAGE,
            type_name=f".{PACKAGE}.{_CHOICE}",
        )
        kind = f"{path}.ParametersEntry"
    field.type_name = f".{PACKAGE}.{kind}"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_define())


def message(name: str) -> Any:
    """Return the class of a message, by its name in the package."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
