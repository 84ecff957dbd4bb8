"""The endpoint as a person starts it: swaps, kills and overload under load, and what is left afterwards."""

import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from endpoints import ask, serving
from running import RAY_AGENTS, Command, is_over
from trunks import noise, write_tuned

import rayft
from rayft.package.golden import Golden, write_golden
from rayft.package.seal import seal
from rayft.registry.registry import Registry

PICTURE = noise(50)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    home = tmp_path_factory.mktemp("packages")
    found = {name: write_tuned(home / name, "zoo", seed=seed) for seed, name in enumerate(("one", "two", "bad"))}
    # Sealed, and yet not what its golden examples say.
    write_golden(found["bad"], Golden((PICTURE,), np.array([[0.0, 0.0, 1.0]], "float32")))
    seal(found["bad"])
    return found


@pytest.fixture
def shelf(tmp_path, packages):
    registry = Registry.open(tmp_path / "registry")
    for package in packages.values():
        registry.register(package, "zoo")
    registry.promote(registry.find("zoo@1"), "champion")
    return registry


def probabilities(body):
    return np.asarray(json.loads(body)["predictions"][0]["probabilities"], "float32")


def models(port):
    status, body = ask(port, "/v1/models")
    assert status == 200
    return json.loads(body)["models"]


def version(port):
    return models(port)[0]["version"]


def wait_for(condition, seconds=60.0):
    """Return how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds
        time.sleep(0.1)
    return time.monotonic() - start


class Load:
    """Requests one after the other in some threads, while the block runs."""

    def __init__(self, port, threads=2, retries=0):
        self.port, self.retries, self.outcomes, self._stop = port, retries, [], threading.Event()
        # When each of them was sent.
        self.sent_at = []
        self._noting = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _run(self):
        while not self._stop.is_set():
            sent_at = time.monotonic()
            outcome = self._once()
            with self._noting:
                self.outcomes.append(outcome)
                self.sent_at.append(sent_at)

    def _once(self):
        for attempt in range(self.retries + 1):
            try:
                status, _ = ask(self.port, body=PICTURE)
            # The connection of a killed replica.
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            if status == 200:
                return status
            if attempt < self.retries:
                time.sleep(0.2)
        return status


def test_versions_take_each_others_place_without_a_failed_request(tmp_path, shelf, packages):
    with serving(tmp_path, "zoo", "--registry", str(tmp_path / "registry")) as (command, port):
        status, body = ask(port, body=PICTURE)
        assert status == 200
        np.testing.assert_allclose(
            probabilities(body), rayft.load(packages["one"]).predict([PICTURE])[0].probabilities, atol=1e-5
        )
        with Load(port) as load:
            shelf.promote(shelf.find("zoo@2"), "champion")
            assert wait_for(lambda: version(port) == "2") < 10
            shelf.promote(shelf.find("zoo@3"), "champion")
            wait_for(lambda: "stays" in command.err or "zoo@3 cannot be" in command.err)
            assert version(port) == "2"
            shelf.rollback("zoo")
            shelf.rollback("zoo")
            assert wait_for(lambda: version(port) == "1") < 10
        assert set(load.outcomes) == {200}, collections.Counter(load.outcomes)
        assert len(load.outcomes) > 20
        _, body = ask(port, "/metrics")
        assert b'rayft_serve_swaps_total{model="zoo",outcome="done"} 2.0' in body
        assert b'rayft_serve_swaps_total{model="zoo",outcome="failed"} 1.0' in body
        assert b'rayft_serve_responses_total{protocol="http",status="200"}' in body


def test_a_killed_replica_costs_what_it_held_and_overload_is_429(tmp_path, packages):
    bounds = ("--set", "batching={max_batch_size: 1, max_queue: 4}", "--set", "limits.max_pictures=4")
    with serving(tmp_path, str(packages["one"]), "--replicas", "2", *bounds) as (command, port):
        assert b"rayft_serve_replicas 2.0" in ask(port, "/metrics")[1]
        victim = replicas(command)[0]
        with Load(port, threads=2) as plain, Load(port, threads=1, retries=3) as careful:
            time.sleep(1)
            killed_at = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: is_over(victim))
            gone_at = time.monotonic()
            wait_for(lambda: len(set(replicas(command)) - {victim}) == 2 and is_whole(port), 120)
        # Lost is what it held, one request a thread, and what reached it while the system took it apart: nothing later.
        lost = [at for at, outcome in zip(plain.sent_at, plain.outcomes, strict=True) if outcome != 200]
        assert all(at < gone_at for at in lost), collections.Counter(plain.outcomes)
        assert sum(at < killed_at for at in lost) <= 2, collections.Counter(plain.outcomes)
        assert set(careful.outcomes) == {200}, collections.Counter(careful.outcomes)
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            statuses = [status for status, _ in pool.map(lambda _: ask(port, body=PICTURE), range(300))]
        assert set(statuses) == {200, 429}
        assert ask(port, body=PICTURE)[0] == 200


def replicas(command):
    """Return the processes that are replicas."""
    command.look()
    return [pid for pid in command.seen if b"ray::ServeReplica" in command_line(pid)]


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_whole(port):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return b"rayft_serve_replicas 2.0" in ask(port, "/metrics")[1]
    return False


def test_nothing_is_left_of_a_killed_driver(tmp_path, packages):
    with serving(tmp_path, str(packages["one"])) as (command, port):
        command.process.kill()
        command.process.wait()
        assert command.left(within_s=20, but=RAY_AGENTS) == []
        with pytest.raises(OSError, match="refused"):
            ask(port, body=PICTURE)


def test_a_model_that_misses_its_golden_answers_is_refused_in_words(tmp_path, packages):
    command = Command.start(tmp_path, "serve", str(packages["bad"]), "--port", "0")
    try:
        assert command.wait() == 2
        assert "error: Golden example 0 of golden.arrow differs by" in command.err
        assert "Traceback" not in command.err
        assert command.left() == []
    finally:
        command.clean_up()


@pytest.mark.full
def test_more_load_brings_another_replica_and_less_takes_it_away(tmp_path, packages):
    bounds = {"target_pictures": 0.2, "upscale_delay_s": 1, "downscale_delay_s": 5}
    settings = [part for name, value in bounds.items() for part in ("--set", f"autoscale.{name}={value}")]
    with serving(tmp_path, str(packages["one"]), "--autoscale", "1:2", *settings) as (command, port):
        assert len(replicas(command)) == 1
        with Load(port, threads=8) as load:
            wait_for(lambda: is_whole(port), 120)
        wait_for(lambda: not is_whole(port), 120)
        assert set(load.outcomes) == {200}, collections.Counter(load.outcomes)
        assert ask(port, body=PICTURE)[0] == 200


# What the command `serve deploy` sends, without the dashboard that would take it.
DEPLOY = """
import sys, time, urllib.request, yaml, ray
ray.init(address="local", include_dashboard=False, log_to_driver=False)
from ray import serve
from ray.serve._private.api import serve_start
from ray.serve.schema import ServeDeploySchema
config = ServeDeploySchema.model_validate(yaml.safe_load(open(sys.argv[1])))
client = serve_start(proxy_location=config.proxy_location)
client.deploy_apps(config)
end = time.monotonic() + 120
while serve.status().applications["rayft"].status != "RUNNING" and time.monotonic() < end:
    time.sleep(0.5)
print(urllib.request.urlopen("http://127.0.0.1:" + sys.argv[2] + "/v1/models").read().decode())
ray.shutdown()
"""


@pytest.mark.full
def test_the_written_config_is_one_that_serve_deploys(tmp_path, packages):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wrote = Command.start(tmp_path, "serve", str(packages["one"]), "--port", str(port), "--write-config", "serve.yaml")
    assert wrote.wait() == 0, wrote.err
    environment = {**os.environ, "PYTHONPATH": str(Path(rayft.__file__).parents[1])}
    command = [sys.executable, "-c", DEPLOY, "serve.yaml", str(port)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert '"name":"zoo"' in done.stdout.replace(" ", ""), done.stderr
