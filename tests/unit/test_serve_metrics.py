"""Each process must know its folder before prometheus_client is imported, so each is a process of its own."""

import re
import subprocess
import sys

COUNT = """
import sys, time
from pathlib import Path
from rayft.serve.engine.metrics import Metrics, prepare
prepare(Path(sys.argv[1]))
metrics = Metrics()
from rayft.serve.contract import ServedModel
model = ServedModel("zoo", "1", (), {}, ("a",), False, (8, 8, 3), None, "x")
metrics.swapped(None, model)
metrics.answered(model, 3, 0.02)
metrics.batch(3, 4, 0.01)
metrics.load(5, 7)
metrics.responded("http", 200)
metrics.refused("zoo", 429)
print("ready", flush=True)
sys.stdin.readline()
kind, body = metrics.expose()
print(kind)
print(body.decode(), flush=True)
"""


def start(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def values(text):
    return {name: float(value) for name, value in re.findall(r"^(rayft_serve_\S+) (\S+)$", text, re.M)}


def test_replicas_are_added_up_and_gauges_of_a_killed_one_are_gone(tmp_path):
    first, second = start(tmp_path / "metrics"), start(tmp_path / "metrics")
    second.kill()
    second.communicate()
    out, _ = first.communicate("\n", timeout=60)
    assert out.startswith("text/plain")
    found = values(out)
    assert found['rayft_serve_pictures_total{model="zoo",version="1"}'] == 6
    assert found['rayft_serve_request_seconds_count{model="zoo",version="1"}'] == 2
    assert found['rayft_serve_batch_pictures_bucket{le="2.0"}'] == 0
    assert found['rayft_serve_batch_pictures_bucket{le="4.0"}'] == 2
    assert found["rayft_serve_padding_rows_total"] == 2
    assert found['rayft_serve_responses_total{protocol="http",status="200"}'] == 2
    assert found['rayft_serve_refusals_total{model="zoo",status="429"}'] == 2
    assert found["rayft_serve_queue_pictures"] == 5
    assert found["rayft_serve_in_flight_pictures"] == 7
    assert found["rayft_serve_replicas"] == 1
    assert found['rayft_serve_loaded_replicas{model="zoo",version="1"}'] == 1
    assert not [name for name in found if "pid" in name]
