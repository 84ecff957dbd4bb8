"""A search and an endpoint on three hosts of their own, with everything that they share on S3."""

import io
import json
import signal
import sys
import time
import urllib.error
import urllib.request

import pytest
from host_cluster import cluster, pictures
from hosts import PATIENCE_S, why_not
from PIL import Image

pytestmark = [pytest.mark.full, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

HOSTS = ("head", "one", "two")
CONFIG = """
name: search
storage: '{storage}'
data: {{source: '{source}', global_batch_size: 18, image_size: 16}}
model: {{backbone: none, weights: none, pooling: flatten, hidden: [16], dropout: 0.2}}
freeze: {{depth: 0}}
train: {{epochs: 3, log_every_steps: 1, step: "own_steps:gated"}}
cluster: {{address: '{address}', workers: 1, cpus_per_worker: 1.6}}
sweep: {{searcher: grid, scheduler: none, trials: 6, space: {{optim.learning_rate: {{grid: {rates}}}}}}}
registry: {{location: '{registry}', register: colours}}
"""
RATES = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03]
PORT = 8000


@pytest.fixture(scope="module")
def hosts():
    # More CPUs than there are: what counts is where workers fit.
    with cluster(HOSTS, cpus=3) as made:
        made.write("data/pictures.parquet", pictures(120))
        yield made


@pytest.fixture(scope="module")
def search(hosts):
    """A search whose winner is registered; its first trials begin when one waits on each host."""
    places = {"storage": "", "source": "data/pictures.parquet", "registry": "registry"}
    uris = {name: hosts.bucket.uri(place) for name, place in places.items()}
    text = CONFIG.format(address=hosts.address, rates=RATES, **uris)
    process = hosts.rayft(hosts.head, "sweep", text, out="search.txt")
    try:
        hosts.wait_at_gate(0, process)
        hosts.open_gate(0)
        assert process.wait(PATIENCE_S) == 0
    finally:
        print(hosts.head.file("search.txt").read_text())


def test_a_search_has_a_trial_on_each_host_at_once(hosts, search):
    lines = [json.loads(line) for line in hosts.read("runs/search/trials.jsonl").splitlines()]
    trials = {line["id"]: line for line in lines}
    searched = [trial for trial in trials.values() if trial["role"] == "search"]
    assert sorted(trial["params"]["optim.learning_rate"] for trial in searched) == RATES
    assert {trial["state"] for trial in trials.values()} == {"finished"}
    outcome = hosts.result("search")
    best = max(trial["best"]["metrics"]["accuracy"] for trial in searched)
    assert (outcome["status"], outcome["registered"]) == ("finished", "colours@1")
    assert trials[outcome["best_trial"]]["best"]["metrics"]["accuracy"] == best
    assert "runs/search/package/model.keras" in hosts.names("runs/search/package")


def ask(hosts, host, picture, key):
    """Ask the endpoint of a host from a machine outside the cluster; returns status and answer."""
    url = f"http://{host.address}:{PORT}/v1/models/colours:predict"
    headers = {"Content-Type": "image/png", **({"Authorization": f"Bearer {key}"} if key else {})}

    def send():
        try:
            with urllib.request.urlopen(urllib.request.Request(url, picture, headers), timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return hosts.store.in_its_network(send)


def test_an_endpoint_answers_on_every_host(hosts, search):
    key = hosts.head.run(sys.executable, "-m", "rayft", "keys", "create", "keys.json", "tester").strip()
    for host in hosts.hosts[1:]:
        place = host.file("keys.json")
        place.touch(0o600)
        place.write_bytes(hosts.head.file("keys.json").read_bytes())
    words = ["serve", "colours", "--address", hosts.address, "--registry", hosts.bucket.uri("registry")]
    # One replica fits on each host.
    words += ["--host", "0.0.0.0", "--port", str(PORT), "--keys", "keys.json", "--replicas", "3"]
    said = hosts.head.file("serve.txt")
    process = hosts.head.start(sys.executable, "-m", "rayft", *words, "--set", "cpus_per_replica=2", out=said)
    try:
        end = time.monotonic() + PATIENCE_S
        while "ready: colours@1" not in said.read_text():
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.2)
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (60, 60, 200)).save(buffer, "PNG")
        answers = [ask(hosts, host, buffer.getvalue(), key) for host in hosts.hosts]
        assert [status for status, _ in answers] == [200, 200, 200], answers
        assert answers[0] == answers[1] == answers[2]
        assert answers[0][1]["predictions"][0]["label"] == "blue"
        assert [ask(hosts, host, buffer.getvalue(), None)[0] for host in hosts.hosts] == [401, 401, 401]
    finally:
        hosts.head.signal("-m rayft serve", signal.SIGTERM)
        code = process.wait(PATIENCE_S)
    assert code == 0, said.read_text()
    # It leaves the cluster as it was.
    left = [line for host in hosts.hosts for line in host.processes().values() if "Serve" in line]
    assert left == []
