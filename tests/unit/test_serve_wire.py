import base64
import json
import struct

import numpy as np
import pytest

from rayft.serve.contract import RequestError, ServedModel
from rayft.serve.wire.about import details, listing, model_metadata
from rayft.serve.wire.form import parse_form
from rayft.serve.wire.infer import Wanted, outputs
from rayft.serve.wire.infer_rest import parse_infer, write_infer
from rayft.serve.wire.json_text import dump, parse_object
from rayft.serve.wire.predict import parse_instances
from rayft.serve.wire.rows import prediction_rows

A, B = b"\x89PNG\r\n\x1a\n first", b"\xff\xd8 second"
A64, B64 = base64.b64encode(A).decode(), base64.b64encode(B).decode()
MODEL = ServedModel("zoo", "3", ("champion",), {"accuracy": 0.5}, ("cat", "dog", "é"), False, (2, 2, 3), None, "abc")
# Hand-chosen; exact in float32.
PROBABILITIES = np.array([[0.25, 0.625, 0.125], [0.75, 0.0, 0.25]], np.float32)


def blob(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def binary(tree: dict, tail: bytes) -> tuple[bytes, str]:
    head = json.dumps(tree).encode()
    return head + tail, str(len(head))


def image(**entries) -> dict:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], **entries}]}


# TensorFlow Serving's form.


@pytest.mark.parametrize(
    "instances",
    [
        [{"b64": A64}, {"b64": B64}],
        [{"image": {"b64": A64}}, {"image_bytes": {"b64": B64}}],
    ],
)
def test_instances_give_the_pictures_bytes(instances):
    assert parse_instances(json.dumps({"instances": instances}).encode()) == [A, B]


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"image": value}])
def test_instances_of_numbers_give_one_float_array(wrap):
    found = parse_instances(json.dumps({"instances": [wrap([[[0, 1.5]]]), wrap([[[2, 255]]])]}).encode())
    assert (found.dtype, found.tolist()) == (np.float32, [[[[0.0, 1.5]]], [[[2.0, 255.0]]]])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"[1]", "a list of 1"),
        (b'{"instances": NaN}', "not JSON"),
        (b'{"instances": [Infinity]}', "not JSON"),
        (b'{"instances": "\xff"}', "not JSON"),
        (b'{"instances": ' + b"[" * 100_000, "not JSON"),
        (b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", "instances"),
        (b'{"inputs": []}', "'inputs'"),
        (b"{}", "None"),
        (b'{"instances": []}', "a list of 0"),
        (b'{"instances": [{"b64": 7}]}', "instances[0].b64 is 7"),
        (b'{"instances": [{"b64": "a"}]}', "is not base64: 'a'"),
        (b'{"instances": [{"b64": "=====\\u0000"}]}', "is not base64"),
        (b'{"instances": [{"b64": "aGk=", "x": 1}]}', "'b64', 'x'"),
        (b'{"instances": ["aGk="]}', "instances[0] is 'aGk='"),
        (b'{"instances": [[1], [1, 2]]}', "different lengths"),
        (b'{"instances": [["1"]]}', "not numbers"),
        (b'{"instances": [[1e39]]}', "not finite"),
        (b'{"instances": [[' + b"9" * 400 + b"]]}", "not JSON"),
        (b'{"instances": [[1], {"b64": "aGk="}]}', "both encoded and decoded"),
        (b'{"instances": [[1]], "signature_name": "x"}', "signature_name is 'x'"),
    ],
)
def test_bodies_that_are_no_instances_are_refused_with_a_reason(body, said):
    with pytest.raises(RequestError) as caught:
        parse_instances(body)
    assert caught.value.status == 400
    assert said in caught.value.args[0]
    assert len(caught.value.args[0]) < 300


def test_rows_name_the_best_classes_in_order():
    first, second = json.loads(dump(prediction_rows(MODEL, PROBABILITIES, top=2)))
    assert first == {
        "label": "dog",
        "probability": 0.625,
        "probabilities": [0.25, 0.625, 0.125],
        "top": [{"label": "dog", "probability": 0.625}, {"label": "cat", "probability": 0.25}],
    }
    assert (second["label"], [entry["label"] for entry in second["top"]]) == ("cat", ["cat", "é"])


def test_rows_of_several_labels_list_those_above_one_half():
    model = ServedModel("zoo", "1", (), {}, ("cat", "dog"), True, (2, 2, 3), None, "abc")
    row, none = prediction_rows(model, np.array([[0.75, 0.625], [0.25, 0.5]], np.float32), top=1)
    assert (row["labels"], none["labels"], len(row["top"])) == (["cat", "dog"], [], 1)


# Open Inference Protocol v2.


def test_json_pictures_are_base64_or_text():
    assert parse_infer(json.dumps(image(data=[A64, B64])).encode(), None).pictures == [A, B]
    tree = image(data=["GIF89a and more"], shape=[1])
    assert parse_infer(json.dumps(tree).encode(), None).pictures == [b"GIF89a and more"]


def test_binary_pictures_follow_their_lengths():
    tail = blob(A, B)
    body, length = binary({"id": "7", **image(parameters={"binary_data_size": len(tail)})}, tail)
    found = parse_infer(body, length)
    assert (found.id, found.pictures) == ("7", [A, B])
    assert found.wanted == (Wanted("probabilities"), Wanted("label"))


@pytest.mark.parametrize("nested", [True, False])
def test_decoded_pictures_come_as_json_or_as_bytes(nested):
    values = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3) / 4
    shape = {"datatype": "FP32", "shape": [1, 2, 2, 3]}
    data = (values if nested else values.reshape(-1)).tolist()
    by_json = parse_infer(json.dumps(image(**shape, data=data)).encode(), None)
    body, length = binary(image(**shape, parameters={"binary_data_size": 48}), values.astype("<f4").tobytes())
    by_bytes = parse_infer(body, length)
    for found in (by_json, by_bytes):
        np.testing.assert_array_equal(found.pictures, values, strict=True)


def test_a_header_length_of_0_makes_the_body_one_picture():
    found = parse_infer(A, "0")
    assert (found.pictures, found.wanted[0].binary) == ([A], True)


def test_requested_outputs_keep_their_order_and_their_form():
    tree = {
        **image(data=[A64, B64]),
        "parameters": {"binary_data_output": True, "timeout": 1_500_000},
        "outputs": [
            {"name": "label", "parameters": {"binary_data": False}},
            {"name": "probabilities", "parameters": {"classification": 2}},
        ],
    }
    found = parse_infer(json.dumps(tree).encode(), None)
    assert found.wanted == (Wanted("label"), Wanted("probabilities", binary=True, classes=2))
    assert found.timeout_s == 1.5


def test_an_answer_in_json():
    body, length = write_infer(MODEL, "7", outputs(MODEL, PROBABILITIES, (Wanted("probabilities"), Wanted("label"))))
    assert length is None
    assert json.loads(body) == {
        "id": "7",
        "model_name": "zoo",
        "model_version": "3",
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": [2, 3],
                "data": [0.25, 0.625, 0.125, 0.75, 0.0, 0.25],
            },
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["dog", "cat"]},
        ],
    }


def test_an_answer_in_bytes():
    wanted = (Wanted("label", binary=True), Wanted("probabilities", binary=True))
    body, length = write_infer(MODEL, "", outputs(MODEL, PROBABILITIES, wanted))
    head = json.loads(body[:length])
    assert [output["parameters"]["binary_data_size"] for output in head["outputs"]] == [14, 24]
    assert "id" not in head
    assert body[length:] == b"\3\0\0\0dog\3\0\0\0cat" + PROBABILITIES.astype("<f4").tobytes()


def test_classification_gives_the_best_classes_as_texts():
    (output,) = outputs(MODEL, PROBABILITIES, (Wanted("probabilities", classes=2),))
    assert (output.datatype, output.shape) == ("BYTES", (2, 2))
    assert [text.decode() for text in output.values] == [
        "0.625000:1:dog",
        "0.250000:0:cat",
        "0.750000:0:cat",
        "0.250000:2:é",
    ]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({}, "inputs is None"),
        ({"inputs": []}, "0 inputs"),
        ({"inputs": [1]}, "inputs[0] is 1"),
        ({"inputs": image(data=[A64])["inputs"] * 2}, "2 inputs"),
        (image(data=[A64]), "has 2 elements; 1 came"),
        (image(data=[A64] * 3), "has 2 elements; 3 came"),
        (image(data=A64), "a list is allowed"),
        (image(data=["é!", "b"]), "element 0 is not base64"),
        (image(data=[A64] * 2, name="x"), "called 'x'"),
        (image(data=[A64] * 2, name=["image"]), "called a list of 1"),
        (image(data=[A64] * 2, datatype="INT32"), "datatype 'INT32'"),
        (image(data=[A64] * 2, datatype={}), "datatype an object"),
        (image(data=[A64] * 2, shape=[2, 1]), "shape [2, 1]"),
        (image(data=[], shape=[0]), "shape [0]"),
        (image(data=[A64] * 2, shape=[2.0]), "holds 2.0"),
        (image(data=[A64] * 2, shape=[True]), "holds True"),
        (image(data=[A64] * 2, shape=[-1]), "holds -1"),
        (image(data=[A64] * 2, shape="2"), "shape is '2'"),
        (image(datatype="FP32", shape=[2**31 - 1] * 4, data=[1.0]), "1 came"),
        (image(datatype="FP32", shape=[1, 1, 1, 1], data=["1"]), "not numbers"),
        (image(datatype="FP32", shape=[1, 1, 1, 1], data=[True]), "not numbers"),
        (image(datatype="FP32", shape=[1, 1, 1, 1], data=None), "a list is allowed"),
        (image(parameters={"shared_memory_region": "x"}), "shared memory"),
        (image(parameters=[]), "an object is allowed"),
        (image(parameters={"binary_data_size": 3}), "0 bytes follow"),
        ({**image(data=[A64] * 2), "id": 7}, "id is 7"),
        ({**image(data=[A64] * 2), "outputs": [{"name": "x"}]}, "outputs has 'x'"),
        ({**image(data=[A64] * 2), "outputs": [{"name": "label"}] * 3}, "3 outputs"),
        ({**image(data=[A64] * 2), "outputs": [{"name": "label", "parameters": {"classification": 1}}]}, "is 1"),
        ({**image(data=[A64] * 2), "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, "is 1"),
        ({**image(data=[A64] * 2), "parameters": {"timeout": -1}}, "timeout is -1"),
    ],
)
def test_requests_against_the_protocol_are_refused_with_a_reason(tree, said):
    with pytest.raises(RequestError) as caught:
        parse_infer(json.dumps(tree).encode(), None)
    assert caught.value.status == 400
    assert said in caught.value.args[0]


@pytest.mark.parametrize(
    ("tail", "entries", "said"),
    [
        (blob(A), {}, "has 2 elements; 1 came"),
        (blob(A, B, A), {}, "bytes follow the 2 elements"),
        (blob(A, B)[:-1], {}, f"says {len(B)} bytes; {len(B) - 1} follow"),
        (blob(A) + b"\1\0", {}, "is cut off"),
        (b"\xff\xff\xff\xff", {}, "says 4294967295 bytes; 0 follow"),
        (b"\0" * 8, {"datatype": "FP32", "shape": [1, 1, 1, 3]}, "takes 12 bytes of FP32; 8 came"),
        (b"\0\0\xc0\x7f", {"datatype": "FP32", "shape": [1, 1, 1, 1]}, "not finite"),
        (blob(A, B), {"data": [A64] * 2}, "both data and binary_data_size"),
    ],
)
def test_binary_tensors_that_contradict_their_shape_are_refused(tail, entries, said):
    body, length = binary(image(parameters={"binary_data_size": len(tail)}, **entries), tail)
    with pytest.raises(RequestError) as caught:
        parse_infer(body, length)
    assert said in caught.value.args[0]


@pytest.mark.parametrize("length", ["-1", "x", "1e3", " 5", "9" * 13, "²", "100000", ""])
def test_a_header_length_that_is_no_length_is_refused(length):
    with pytest.raises(RequestError):
        parse_infer(json.dumps(image(data=[A64, B64])).encode(), length)


def test_bytes_that_no_input_claims_are_refused():
    body, length = binary(image(data=[A64, B64]), b"more")
    with pytest.raises(RequestError, match="4 bytes follow"):
        parse_infer(body, length)


# Forms.


def form(*parts: tuple[str, bytes], end: str = "--edge--\r\n") -> bytes:
    body = b"".join(b"--edge\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + end.encode()


FILE = 'Content-Disposition: form-data; name="image"; filename="a.png"'


def test_a_form_gives_its_files_in_order():
    body = form((FILE, A), (FILE + "\r\nContent-Type: image/jpeg", B + b"\r\n--edg"))
    assert parse_form(body, "multipart/form-data; boundary=edge", 2) == [A, B + b"\r\n--edg"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (form((FILE, A)), "multipart/form-data", 400),
        (form((FILE, A)), "multipart/form-data; boundary=" + "x" * 80, 400),
        (form((FILE, A)), "multipart/form-data; boundary=other", 400),
        (form((FILE, A), end=""), "multipart/form-data; boundary=edge", 400),
        (form(), "multipart/form-data; boundary=edge", 400),
        (b"", "multipart/form-data; boundary=edge", 400),
        (form(('Content-Disposition: form-data; name="top"', b"3")), "multipart/form-data; boundary=edge", 400),
        (form(("X: " + "y" * 100_000, b"3")), "multipart/form-data; boundary=edge", 400),
        (form(*[(FILE, A)] * 3), "multipart/form-data; boundary=edge", 413),
    ],
)
def test_damaged_forms_are_refused(body, content_type, status):
    with pytest.raises(RequestError) as caught:
        parse_form(body, content_type, 2)
    assert caught.value.status == status


# What models are said to be.


def test_metadata_names_tensors_and_versions():
    found = model_metadata(MODEL, ["3"])
    assert found["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert found["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    assert (found["name"], found["versions"]) == ("zoo", ["3"])


def test_the_listing_has_what_the_design_fixes():
    assert listing([MODEL]) == {
        "models": [{"name": "zoo", "version": "3", "aliases": ["champion"], "metrics": {"accuracy": 0.5}}]
    }
    assert details(MODEL, ["3"])["labels"] == ["cat", "dog", "é"]


def test_the_same_key_twice_is_read_once():
    assert parse_object(b'{"a": 1, "a": 2}') == {"a": 2}
