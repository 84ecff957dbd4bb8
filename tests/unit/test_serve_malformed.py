import collections
import gc
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from malformed import malformed
from serving import BrakedEngine, noise, serving, tiny_predictor

from rayft.serve.grpc.messages import SERVICE, message
from rayft.serve.listen import ListenSettings

SEED = 20
# What a process holds more after thousands of requests, beside what the first ones made it allocate.
GROWTH_MB = 40


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    predictor = tiny_predictor(tmp_path_factory.mktemp("zoo") / "package")
    with serving(BrakedEngine(predictor), ListenSettings(port=0, grpc_port=0)) as running:
        yield running


def resident_mb() -> float:
    gc.collect()
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def send_all(endpoint, requests) -> collections.Counter:
    """Send requests; every one must be refused in the one form of errors."""
    counts = collections.Counter()
    for request in requests:
        status, headers, body = endpoint.ask(request.method, request.path, request.body, request.headers)
        assert 400 <= status < 500, (status, request, body)
        assert headers["content-type"] == "application/json"
        (text,) = json.loads(body).values()
        assert 5 < len(text) < 500, (request, text)
        counts[status] += 1
    return counts


def test_malformed_requests_are_refused_and_the_next_is_answered(endpoint):
    before = endpoint.predict(noise(1))
    counts = send_all(endpoint, malformed(300, SEED))
    assert {400, 404, 405, 413, 415, 422} <= counts.keys()
    assert endpoint.predict(noise(1)) == before


@pytest.mark.full
def test_five_thousand_malformed_requests_leave_no_trace(endpoint):
    before = endpoint.predict(noise(1))
    counts = send_all(endpoint, malformed(1000, SEED + 1))
    level = resident_mb()
    counts += send_all(endpoint, malformed(4000, SEED + 2))
    growth = resident_mb() - level
    print(f"statuses {dict(sorted(counts.items()))}; {level:.0f} MB, then {growth:+.1f} MB")
    assert growth < GROWTH_MB
    assert endpoint.predict(noise(1)) == before


def test_malformed_calls_are_refused_and_the_next_is_answered(endpoint):
    rng = random.Random(SEED)
    kind = message("ModelInferRequest")
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [noise(1)]}}
    good = kind(model_name="zoo", inputs=[tensor]).SerializeToString()
    counts = collections.Counter()
    with grpc.insecure_channel(f"127.0.0.1:{endpoint.listeners.grpc_port}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer", None, message("ModelInferResponse").FromString)
        for index in range(150):
            place = rng.randrange(len(good))
            # In what is not the picture, which may bear a wrong byte.
            head = rng.randrange(good.index(b"\x89PNG"))
            bad = [
                good[:place],
                rng.randbytes(place),
                good[:head] + bytes([good[head] ^ 1 << rng.randrange(8)]) + good[head + 1 :],
            ][index % 3]
            try:
                call(bad, timeout=20)
                counts["answered"] += 1
            except grpc.RpcError as error:
                counts[error.code().name] += 1
        assert len(call(good, timeout=20).outputs) == 2
    assert counts.keys() <= {"INVALID_ARGUMENT", "NOT_FOUND", "answered"}, counts
    # A flipped bit may hit a field's number, which then is skipped as unknown.
    assert counts["answered"] < 25


def test_the_openapi_document_keeps_what_it_promises(endpoint):
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{endpoint.address}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "4", "--seed", "1", "--generation-deterministic"),
        *("--checks", CHECKS, "--no-color", "--workers", "1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# Not whether good data is accepted: random bytes fit the schema of a picture, and are none.
CHECKS = ",".join(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
    ]
)
