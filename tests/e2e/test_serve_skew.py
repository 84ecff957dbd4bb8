"""Whatever way a picture takes to a network, the probabilities are those of evaluation."""

import base64
import json

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from endpoints import ask, serving
from running import Command, make_home

import rayft
from rayft.config import load_config
from rayft.data.dataset import open_dataset, pictures_by_name
from rayft.serve.grpc.messages import SERVICE, message

CONFIG = """
name: run
data: {source: data, global_batch_size: 16, image_size: 12, test_fraction: 0.9, validation_fraction: 0.05}
model: {backbone: none, weights: none, pooling: flatten, hidden: [16]}
freeze: {depth: 0}
train: {epochs: 1}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run on 234 pictures of 16 pixels, which are resized to 12, most of them for the test."""
    made = make_home(tmp_path_factory.mktemp("skew"), CONFIG)
    command = Command.start(made, "train", "config.yaml")
    assert command.wait() == 0, command.err
    return made


def rest(port, pictures):
    body = json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()} for picture in pictures]})
    status, answer = ask(port, "/v1/models/run:predict", body.encode(), {"Content-Type": "application/json"})
    assert status == 200, answer
    return [row["probabilities"] for row in json.loads(answer)["predictions"]]


def v2_json(port, pictures):
    data = [base64.b64encode(picture).decode() for picture in pictures]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(data)], "data": data}
    tensor["parameters"] = {"content_type": "base64"}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
    status, answer = ask(port, "/v2/models/run/infer", body, {"Content-Type": "application/json"})
    assert status == 200, answer
    (output,) = json.loads(answer)["outputs"]
    return np.reshape(output["data"], output["shape"])


def v2_binary(port, pictures):
    raw = b"".join(len(picture).to_bytes(4, "little") + picture for picture in pictures)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(pictures)]}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    asked = {"name": "probabilities", "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [tensor], "outputs": [asked]}).encode()
    kinds = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    status, answer = ask(port, "/v2/models/run/infer", head + raw, kinds)
    assert status == 200, answer
    # The header of JSON comes first; the tensors follow it.
    _, start = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    return np.frombuffer(answer[start:], "<f4").reshape(len(pictures), -1)


def over_grpc(port, pictures):
    raw = b"".join(len(picture).to_bytes(4, "little") + picture for picture in pictures)
    request = message("ModelInferRequest")(
        model_name="run",
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [len(pictures)]}],
        outputs=[{"name": "probabilities"}],
        raw_input_contents=[raw],
    )
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=lambda value: value.SerializeToString(),
            response_deserializer=message("ModelInferResponse").FromString,
        )
        answer = call(request, timeout=60)
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(len(pictures), -1)


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.full)])
def test_every_way_gives_the_probabilities_of_evaluation(home, tmp_path, count, monkeypatch):
    monkeypatch.chdir(home)
    table = pa.ipc.open_file(pa.memory_map("runs/run/predictions.arrow")).read_all()
    table = table.filter(pc.equal(table["split"], "test")).slice(0, count)
    assert table.num_rows == count
    expected = np.stack(table["probabilities"].to_pylist())
    pictures = pictures_by_name(open_dataset(load_config("config.yaml")), table["name"].to_pylist())
    found = {"Predictor": [answer.probabilities for answer in rayft.load("runs/run").predict(pictures)]}
    with serving(tmp_path, str(home / "runs" / "run" / "package"), "--grpc-port", "0") as (command, port):
        grpc_port = int(json.loads(command.out)["grpc"].rpartition(":")[2])
        for way, ask_so, to in (
            ("REST", rest, port),
            ("v2 JSON", v2_json, port),
            ("v2 binary", v2_binary, port),
            ("gRPC", over_grpc, grpc_port),
        ):
            parts = [ask_so(to, pictures[start : start + 50]) for start in range(0, count, 50)]
            found[way] = np.concatenate([np.asarray(part) for part in parts])
    worst = {way: float(np.abs(np.asarray(answers) - expected).max()) for way, answers in found.items()}
    print(count, worst)
    assert all(difference <= 1e-5 for difference in worst.values()), worst
