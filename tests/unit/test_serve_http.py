import base64
import json
import logging
import re
import struct
import threading
import time

import numpy as np
import pytest
from serving import LABELS, BrakedEngine, noise, serving, tiny_predictor

from rayft.serve.limits import Limits
from rayft.serve.listen import ListenSettings

PICTURES = [noise(10), noise(11)]
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=edge"}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return tiny_predictor(tmp_path_factory.mktemp("zoo") / "package")


@pytest.fixture(scope="module")
def endpoint(predictor):
    limits = Limits(max_body_bytes=200_000, max_pictures=4)
    with serving(BrakedEngine(predictor), ListenSettings(port=0, limits=limits)) as running:
        yield running


@pytest.fixture(scope="module")
def expected(predictor):
    return [answer.probabilities for answer in predictor.predict(PICTURES)]


def rows(answer):
    status, _, body = answer
    assert status == 200, body
    return json.loads(body)["predictions"]


def form(*pictures):
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + picture + b"\r\n"
        for picture in pictures
    ]
    return b"".join([*parts, b"--edge--\r\n"])


def test_every_form_of_a_prediction_gives_the_predictors_probabilities(endpoint, predictor, expected):
    path = "/v1/models/zoo:predict"
    pixels = [predictor._decode(picture).numpy().tolist() for picture in PICTURES]
    instances = json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()} for picture in PICTURES]})
    answers = [
        rows(endpoint.ask("POST", path, instances, JSON)),
        rows(endpoint.ask("POST", "/v1/models/zoo/versions/3:predict", instances)),
        rows(endpoint.ask("POST", path, json.dumps({"instances": pixels}), JSON)),
        rows(endpoint.ask("POST", path, form(*PICTURES), FORM)),
        [
            row
            for picture in PICTURES
            for row in rows(endpoint.ask("POST", path, picture, {"content-type": "image/png"}))
        ],
        [row for picture in PICTURES for row in rows(endpoint.ask("POST", path, picture))],
    ]
    for found in answers:
        np.testing.assert_allclose([row["probabilities"] for row in found], expected, atol=1e-6)
    assert answers[0][0]["label"] == LABELS[int(expected[0].argmax())]


def test_top_bounds_the_list_of_classes(endpoint):
    (row,) = rows(endpoint.ask("POST", "/v1/models/zoo:predict?top=2", PICTURES[0]))
    assert [entry["probability"] for entry in row["top"]] == sorted(row["probabilities"], reverse=True)[:2]
    assert len(rows(endpoint.ask("POST", "/v1/models/zoo:predict?top=99", PICTURES[0]))[0]["top"]) == 3


def test_binary_infer_gives_the_predictors_probabilities(endpoint, expected):
    tail = b"".join(struct.pack("<I", len(picture)) + picture for picture in PICTURES)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(tail)}}
    head = json.dumps({"id": "a", "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    status, found, body = endpoint.ask("POST", "/v2/models/zoo/infer", head + tail, headers)
    assert (status, found["content-type"]) == (200, "application/octet-stream")
    length = int(found["inference-header-content-length"])
    assert json.loads(body[:length])["id"] == "a"
    probabilities = np.frombuffer(body[length : length + 24], "<f4").reshape(2, 3)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_an_answer_says_its_version_and_where_the_time_went(endpoint):
    _, headers, _ = endpoint.ask("POST", "/v1/models/zoo:predict", PICTURES[0])
    assert headers["x-model-version"] == "3"
    assert re.fullmatch(r"decode;dur=[\d.]+, queue;dur=[\d.]+, compute;dur=[\d.]+", headers["server-timing"])


def test_an_explanation_is_a_png(endpoint):
    status, headers, body = endpoint.ask("POST", "/v1/models/zoo:explain?label=dog", PICTURES[0])
    assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert endpoint.ask("POST", "/v1/models/zoo:explain?label=cow", PICTURES[0])[0] == 404


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/health/live", {"live": True}),
        ("/v2/health/live", {"live": True}),
        ("/health/ready", {"ready": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/zoo/ready", {"name": "zoo", "ready": True}),
        ("/v2/models/zoo/versions/3/ready", {"name": "zoo", "ready": True}),
    ],
)
def test_health_is_told(endpoint, path, content):
    status, _, body = endpoint.ask("GET", path)
    assert (status, json.loads(body)) == (200, content)
    assert endpoint.ask("HEAD", path)[::2] == (200, b"")


def test_readiness_and_life_are_apart(endpoint):
    endpoint.engine.loading = True
    try:
        status, headers, _ = endpoint.ask("GET", "/health/ready")
        assert (status, headers["retry-after"]) == (503, "1")
        assert endpoint.ask("GET", "/health/live")[0] == 200
    finally:
        endpoint.engine.loading = False


def test_models_metrics_and_metadata_are_told(endpoint):
    assert [model["name"] for model in json.loads(endpoint.ask("GET", "/v1/models")[2])["models"]] == ["zoo", "farm"]
    assert json.loads(endpoint.ask("GET", "/v1/models/zoo")[2])["model_version_status"][0]["state"] == "AVAILABLE"
    assert json.loads(endpoint.ask("GET", "/v2/models/zoo")[2])["versions"] == ["3"]
    assert json.loads(endpoint.ask("GET", "/v2")[2])["name"] == "rayft"
    assert endpoint.ask("GET", "/metrics")[2] == b"rayft_up 1\n"


def test_the_documentation_takes_nothing_from_elsewhere(endpoint):
    status, headers, body = endpoint.ask("GET", "/docs")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b":predict" in body
    for outside in (b"http:", b"https:", b"//", b"<script", b"<link", b"<img"):
        assert outside not in body


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/v1/models/cow:predict", b"x", {}, 404),
        ("POST", "/v1/models/zoo/versions/4:predict", b"x", {}, 404),
        ("POST", "/v1/models/..%2f..%2fetc:predict", b"x", {}, 404),
        ("POST", "/v1/models/zoo:predict?top=0", b"x", {}, 400),
        ("POST", "/v1/models/zoo:predict?top=1&top=2", b"x", {}, 400),
        ("POST", "/v1/models/zoo:predict?key=secret", b"x", {}, 400),
        ("POST", "/v1/models/zoo:predict", b"no picture", {}, 422),
        ("POST", "/v1/models/zoo:predict", b"", {"content-type": "image/png"}, 400),
        ("POST", "/v1/models/zoo:predict", b"x", {"content-type": "text/csv"}, 415),
        ("POST", "/v1/models/zoo:predict", b"x", {"content-encoding": "gzip"}, 415),
        ("POST", "/v1/models/zoo:predict", b"x" * 200_001, {}, 413),
        ("POST", "/v1/models/zoo:predict", form(*PICTURES * 3), FORM, 413),
        ("POST", "/v1/models/zoo:predict", json.dumps({"instances": [{"b64": "aGk="}] * 5}), JSON, 413),
        ("POST", "/v1/models/zoo:predict", b"x", {"x-request-timeout-seconds": "soon"}, 400),
        ("POST", "/v1/models/zoo:predict", PICTURES[0], {"x-request-timeout-seconds": "nan"}, 400),
        ("POST", "/v1/models/zoo:explain", form(*PICTURES), FORM, 400),
        ("GET", "/v1/models/zoo:predict", None, {}, 405),
        ("DELETE", "/health/live", None, {}, 405),
        ("GET", "/nowhere", None, {}, 404),
        ("GET", "/v2/models/zoo/versions/4/ready", None, {}, 404),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_its_status(endpoint, method, path, body, headers, status):
    found, answered, content = endpoint.ask(method, path, body, headers)
    assert found == status, content
    assert answered["content-type"] == "application/json"
    (text,) = json.loads(content).values()
    assert 0 < len(text) < 400
    assert "secret" not in text
    assert ("allow" in answered) == (status == 405)


def test_a_full_queue_says_when_to_come_again(endpoint):
    endpoint.engine.full = True
    try:
        status, headers, _ = endpoint.ask("POST", "/v1/models/zoo:predict", PICTURES[0])
    finally:
        endpoint.engine.full = False
    assert (status, headers["retry-after"]) == (429, "3")


def test_a_client_may_lower_the_deadline(endpoint):
    endpoint.engine.delay_s = 5.0
    try:
        start = time.monotonic()
        headers = {"x-request-timeout-seconds": "0.2"}
        assert endpoint.ask("POST", "/v1/models/zoo:predict", PICTURES[0], headers)[0] == 408
        assert time.monotonic() - start < 2
    finally:
        endpoint.engine.delay_s = 0.0


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("a b", False), ("x" * 129, False), ("", False)])
def test_a_sane_request_id_comes_back(endpoint, given, kept):
    _, headers, _ = endpoint.ask("GET", "/health/live", headers={"x-request-id": given})
    assert (headers["x-request-id"] == given) == kept
    assert len(headers["x-request-id"]) >= 9


def test_the_access_log_tells_of_requests_but_not_what_was_in_them(endpoint, caplog):
    with caplog.at_level(logging.INFO, "rayft.access"):
        endpoint.ask("POST", "/v1/models/zoo:predict?top=2", PICTURES[0], {"x-request-id": "id-7"})
        endpoint.ask("POST", "/v1/models/hidden:predict?token=hidden", b"hidden", {"authorization": "Bearer hidden"})
    first, second = (json.loads(record.message) for record in caplog.records if record.name == "rayft.access")
    assert {
        "id": "id-7",
        "method": "POST",
        "route": "/v1/models/{model}:predict",
        "model": "zoo",
        "version": "3",
        "status": 200,
        "bytes_in": len(PICTURES[0]),
        "pictures": 1,
        "key": None,
    }.items() <= first.items()
    assert 0 < first["compute_ms"] <= first["total_ms"]
    assert second["status"] == 404
    assert "hidden" not in json.dumps(second)


def test_answers_that_are_under_way_survive_a_stop(predictor):
    engine = BrakedEngine(predictor)
    engine.delay_s = 0.5
    found = []
    with serving(engine) as endpoint:
        endpoint.predict(PICTURES[0])
        thread = threading.Thread(target=lambda: found.append(endpoint.predict(PICTURES[0])))
        thread.start()
        while engine.asked < 2:
            time.sleep(0.01)
    thread.join(10)
    assert len(found[0]) == 3
