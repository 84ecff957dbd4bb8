"""The published clients, unchanged, each in a process of its own: they need another protobuf than TensorFlow."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving import BrakedEngine, noise, serving, tiny_predictor

from rayft.serve.keys import create_key
from rayft.serve.listen import ListenSettings

TESTS = Path(__file__).parents[1]
CLIENTS = Path(sys.prefix) / "clients"
PICTURES = [noise(10), noise(11)]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return tiny_predictor(tmp_path_factory.mktemp("zoo") / "package")


@pytest.fixture(scope="module")
def found(predictor, tmp_path_factory):
    """What each client got, by client and protocol."""
    assert CLIENTS.is_dir(), "make env installs the clients"
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    key = create_key(path, "client")
    settings = ListenSettings(port=0, grpc_port=0, keys=path)
    answers = {}
    with serving(BrakedEngine(predictor), settings) as endpoint:
        asked = {
            "http": endpoint.address,
            "grpc": f"127.0.0.1:{endpoint.listeners.grpc_port}",
            "key": key,
            "pictures": [base64.b64encode(picture).decode() for picture in PICTURES],
        }
        for client in ("triton", "kserve"):
            done = subprocess.run(
                [sys.executable, str(TESTS / f"clients_{client}.py")],
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                timeout=240,
                env={**os.environ, "PYTHONPATH": str(CLIENTS)},
            )
            assert done.returncode == 0, done.stderr[-3000:]
            for protocol, got in json.loads(done.stdout.splitlines()[-1]).items():
                answers[client, protocol] = got
    return answers


WAYS = [(client, protocol) for client in ("triton", "kserve") for protocol in ("http", "grpc")]


@pytest.mark.parametrize("way", WAYS)
def test_health_and_readiness(found, way):
    got = found[way]
    assert (got["live"], got["ready"], got["model_ready"], got["unknown_ready"]) == (True, True, True, False)


@pytest.mark.parametrize("way", WAYS)
def test_single_pictures_and_batches(found, way, predictor):
    answers = predictor.predict(PICTURES)
    expected = [answer.probabilities for answer in answers]
    np.testing.assert_allclose(found[way]["single"], expected[:1], atol=1e-6)
    np.testing.assert_allclose(found[way]["batch"], expected, atol=1e-6)
    assert found[way]["batch_labels"] == [answer.label for answer in answers]
    for form in {"json", "v1"} & found[way].keys():
        np.testing.assert_allclose(found[way][form], expected, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("case", "codes", "said"),
    [
        ("wrong_shape", ("400", 400, "StatusCode.INVALID_ARGUMENT", "INVALID_ARGUMENT"), "[2, 1]"),
        ("wrong_dtype", ("400", 400, "StatusCode.INVALID_ARGUMENT", "INVALID_ARGUMENT"), "INT32"),
        ("unknown_model", ("404", 404, "StatusCode.NOT_FOUND", "NOT_FOUND"), "cow"),
        ("unknown_version", ("404", 404, "StatusCode.NOT_FOUND", "NOT_FOUND"), "version '4'"),
    ],
)
def test_what_is_wrong_reaches_the_clients_user(found, way, case, codes, said):
    code, message = found[way][case]
    assert code in codes
    assert said in message


def test_tritonclient_sees_metadata_classification_and_keys(found):
    for protocol in ("http", "grpc"):
        got = found["triton", protocol]
        assert got["server"] == "rayft"
        assert got["tensors"] == ["image", "probabilities", "label"]
        assert got["classification"] == got["single_labels"][0]
        assert got["no_key"][0] in ("401", "StatusCode.UNAUTHENTICATED")
        assert got["live_without_key"]


def test_kserve_sees_readiness_in_its_first_protocol_too(found):
    assert found["kserve", "http"]["v1_ready"] is True
