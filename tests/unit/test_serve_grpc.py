import struct

import grpc
import numpy as np
import pytest
from serving import BrakedEngine, noise, serving, tiny_predictor

from rayft.serve.grpc.messages import SERVICE, message
from rayft.serve.keys import create_key
from rayft.serve.limits import Limits
from rayft.serve.listen import ListenSettings

PICTURES = [noise(10), noise(11)]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return tiny_predictor(tmp_path_factory.mktemp("zoo") / "package")


@pytest.fixture(scope="module")
def endpoint(predictor):
    limits = Limits(max_body_bytes=100_000, max_pictures=4)
    with serving(BrakedEngine(predictor), ListenSettings(port=0, grpc_port=0, limits=limits)) as running:
        yield running


@pytest.fixture(scope="module")
def channel(endpoint):
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.listeners.grpc_port}") as channel:
        yield channel


def call(channel, name, request=None, /, *, metadata=(), timeout=20, **fields):
    """Call a method; bytes are sent as they are."""
    kind = message(f"{name}Request")
    method = channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda value: value if isinstance(value, bytes) else value.SerializeToString(),
        response_deserializer=message(f"{name}Response").FromString,
    )
    return method(kind(**fields) if request is None else request, metadata=metadata, timeout=timeout)


def refusal(*arguments, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    return caught.value


def blob(*parts):
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def encoded(**more):
    return {"name": "image", "datatype": "BYTES", "shape": [2], **more}


def test_health_and_metadata(endpoint, channel):
    assert call(channel, "ServerLive").live
    assert call(channel, "ServerReady").ready
    assert call(channel, "ServerMetadata").name == "rayft"
    assert call(channel, "ModelReady", name="zoo", version="3").ready
    assert not call(channel, "ModelReady", name="zoo", version="4").ready
    found = call(channel, "ModelMetadata", name="zoo")
    assert (list(found.versions), found.inputs[0].datatype, list(found.outputs[0].shape)) == (["3"], "BYTES", [-1, 3])
    endpoint.engine.loading = True
    try:
        assert not call(channel, "ServerReady").ready
    finally:
        endpoint.engine.loading = False


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("decoded", [True, False])
def test_every_form_of_a_request_gives_the_predictors_probabilities(channel, predictor, raw, decoded):
    expected = np.stack([answer.probabilities for answer in predictor.predict(PICTURES)])
    images = np.stack([predictor.decode(picture, "x") for picture in PICTURES])
    tensor = encoded()
    if decoded:
        tensor = {"name": "image", "datatype": "FP32", "shape": images.shape}
    if raw:
        more = {"raw_input_contents": [images.astype("<f4").tobytes() if decoded else blob(*PICTURES)]}
    else:
        tensor["contents"] = {"fp32_contents": images.ravel()} if decoded else {"bytes_contents": PICTURES}
        more = {}
    found = call(channel, "ModelInfer", model_name="zoo", id="7", inputs=[tensor], **more)
    assert (found.id, found.model_name, found.model_version) == ("7", "zoo", "3")
    assert [output.name for output in found.outputs] == ["probabilities", "label"]
    labels = [predictor.labels[index].encode() for index in expected.argmax(axis=1)]
    if raw:
        values, texts = found.raw_output_contents
        assert texts == blob(*labels)
        assert not found.outputs[0].HasField("contents")
        values = np.frombuffer(values, "<f4")
    else:
        values = np.array(found.outputs[0].contents.fp32_contents, np.float32)
        assert list(found.outputs[1].contents.bytes_contents) == labels
    np.testing.assert_allclose(values.reshape(2, 3), expected, atol=1e-6)


def test_outputs_are_those_asked_for(channel):
    output = {"name": "probabilities", "parameters": {"classification": {"int64_param": 1}}}
    tensor = encoded(contents={"bytes_contents": PICTURES})
    found = call(channel, "ModelInfer", model_name="zoo", inputs=[tensor], outputs=[output])
    assert [list(each.shape) for each in found.outputs] == [[2, 1]]
    assert found.outputs[0].contents.bytes_contents[0].count(b":") == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model_name": "cow"}, "NOT_FOUND"),
        ({"model_version": "4"}, "NOT_FOUND"),
        ({"inputs": []}, "INVALID_ARGUMENT"),
        ({"inputs": [encoded()] * 2}, "INVALID_ARGUMENT"),
        ({"inputs": [encoded(datatype="INT32")]}, "INVALID_ARGUMENT"),
        ({"inputs": [encoded(name="x")]}, "INVALID_ARGUMENT"),
        ({"inputs": [encoded(shape=[-1])]}, "INVALID_ARGUMENT"),
        ({"inputs": [encoded(shape=[1])]}, "INVALID_ARGUMENT"),
        ({"inputs": [encoded(contents={"bytes_contents": PICTURES})], "raw_input_contents": [b""]}, "INVALID_ARGUMENT"),
        ({"raw_input_contents": [blob(*PICTURES)] * 2}, "INVALID_ARGUMENT"),
        ({"raw_input_contents": [blob(*PICTURES)[:-1]]}, "INVALID_ARGUMENT"),
        ({"raw_input_contents": [blob(b"no", b"picture")]}, "INVALID_ARGUMENT"),
        ({"inputs": [encoded(shape=[5])], "raw_input_contents": [blob(*[PICTURES[0]] * 5)]}, "INVALID_ARGUMENT"),
        ({"raw_input_contents": [blob(b"x" * 200_000, b"")]}, "RESOURCE_EXHAUSTED"),
        ({"outputs": [{"name": "x"}]}, "INVALID_ARGUMENT"),
        ({"parameters": {"timeout": {"string_param": "x"}}}, "INVALID_ARGUMENT"),
        ({"id": "x" * 300}, "INVALID_ARGUMENT"),
    ],
)
def test_calls_that_cannot_be_answered_are_refused_with_their_code(channel, fields, code):
    given = {"model_name": "zoo", "inputs": [encoded()], "raw_input_contents": [blob(*PICTURES)], **fields}
    error = refusal(channel, "ModelInfer", **given)
    assert (error.code().name, bool(error.details())) == (code, True)


def test_bytes_that_are_no_message_are_the_clients_fault(channel):
    error = refusal(channel, "ModelInfer", b"\xff\xff\xff")
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(channel, "ModelMetadata", b"\x0a\xff").code() == grpc.StatusCode.INVALID_ARGUMENT


def test_deadlines_and_full_queues(endpoint, channel):
    fields = {"model_name": "zoo", "inputs": [encoded(contents={"bytes_contents": PICTURES})]}
    endpoint.engine.delay_s = 5.0
    try:
        assert refusal(channel, "ModelInfer", timeout=0.3, **fields).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        waits = {"parameters": {"timeout": {"int64_param": 100_000}}}
        assert refusal(channel, "ModelInfer", **fields, **waits).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        endpoint.engine.delay_s = 0.0
    endpoint.engine.full = True
    try:
        error = refusal(channel, "ModelInfer", metadata=[("x-request-id", "id-7")], **fields)
    finally:
        endpoint.engine.full = False
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata()).items() >= {"retry-after": "3", "x-request-id": "id-7"}.items()


def test_every_call_but_health_needs_a_key_and_its_scope(predictor, tmp_path):
    path = tmp_path / "keys.json"
    every, farm = create_key(path, "everything"), create_key(path, "farmer", ["farm"])
    names = {"ModelReady": "name", "ModelMetadata": "name", "ModelInfer": "model_name", "ServerMetadata": None}
    with (
        serving(BrakedEngine(predictor), ListenSettings(port=0, grpc_port=0, keys=path)) as endpoint,
        grpc.insecure_channel(f"127.0.0.1:{endpoint.listeners.grpc_port}") as channel,
    ):
        assert call(channel, "ServerLive").live
        assert call(channel, "ServerReady").ready
        for name, field in names.items():
            fields = {} if field is None else {field: "zoo"}
            if name == "ModelInfer":
                fields["inputs"] = [encoded(contents={"bytes_contents": PICTURES})]
            for metadata in ((), [("x-api-key", "wrong")], [("authorization", f"Bearer {every[:-1]}!")]):
                assert refusal(channel, name, metadata=metadata, **fields).code() == grpc.StatusCode.UNAUTHENTICATED
            scoped = [("x-api-key", farm)]
            if field is None:
                call(channel, name, metadata=scoped)
            else:
                error = refusal(channel, name, metadata=scoped, **fields)
                assert error.code() == grpc.StatusCode.PERMISSION_DENIED
            call(channel, name, metadata=[("authorization", f"Bearer {every}")], **fields)
