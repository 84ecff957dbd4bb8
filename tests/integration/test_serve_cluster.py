"""`rayft serve --address` on a real head with token authentication: it answers, and leaves the cluster as it was."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from endpoints import ask
from head_node import free_ports, processes_of, ray_head
from running import Command
from trunks import noise, write_tuned

import rayft

PICTURE = noise(50)
# What lives on the cluster, as a driver of its own sees it.
LOOK = """
import json, ray
ray.init(address="{address}", logging_level="ERROR", log_to_driver=False)
actors = [actor["Name"] for actor in ray._private.state.actors().values() if actor["State"] != "DEAD"]
print(json.dumps([actors, ray.available_resources().get("CPU", 0)]))
"""

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("client")
    write_tuned(home / "package", "zoo")
    return home


@pytest.fixture(scope="module")
def head(home):
    with ray_head(home / "home") as head:
        yield head


def look(head, home):
    """Return the names of living actors and the free CPUs."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(address=head.address)],
        env={**os.environ, "HOME": str(home / "home"), "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def workers(head):
    """Return the titles of what the cluster runs for actors and tasks; idle processes wait for the next ones."""
    raylets = {pid for pid in processes_of(head) if "raylet/raylet" in title(pid)}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (name := title(int(entry.name))).startswith("ray::") and parent(entry) in raylets:
            found.append(name)
    return [name for name in found if not re.search("IDLE|Agent", name)]


def title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def parent(entry):
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def wait_until_empty(head, home):
    end = time.monotonic() + 60
    while (found := (look(head, home), workers(head))) != ([[], 2.0], []):
        assert time.monotonic() < end, found
        time.sleep(1)


def start(head, home, *more, suffix=""):
    """Start it and wait until it is ready; returns the command and its port."""
    port = free_ports(1)[0]
    command = Command.start(
        home, "serve", "package", "--address", head.address, "--port", str(port), "--json", *more, suffix=suffix
    )
    command.wait_until(lambda: command.out.endswith("\n") or command.process.poll() is not None)
    assert command.process.poll() is None, command.err
    ready = json.loads(command.out)
    assert (ready["url"], ready["models"]) == (f"http://127.0.0.1:{port}", [{"name": "zoo", "version": "1"}])
    return command, port


def refused(home, *arguments, code=2, suffix="-refused", **variables):
    """Run a command that must end with an error in words, and return them."""
    command = Command.start(home, "serve", str(home / "package"), *arguments, suffix=suffix)
    try:
        assert command.wait() == code, command.err
        assert "Traceback" not in command.err
        assert "error: " in command.err
        assert "  fix: " in command.err or "\nfix: " in command.err
        return command.err
    finally:
        command.clean_up()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_an_endpoint_on_a_cluster_answers_and_leaves_nothing_there(head, home, number):
    command, port = start(head, home, "--replicas", "2")
    try:
        status, body = ask(port, body=PICTURE)
        assert status == 200
        np.testing.assert_allclose(
            json.loads(body)["predictions"][0]["probabilities"],
            rayft.load(home / "package").predict([PICTURE])[0].probabilities,
            atol=1e-5,
        )
        assert b"rayft_serve_replicas 2.0" in ask(port, "/metrics")[1]
        assert sum("ServeReplica" in name for name in workers(head)) == 2
        second = refused(home, "--address", head.address, "--port", str(free_ports(1)[0]))
        assert f"The cluster at {head.address} has an endpoint already" in second
        assert ask(port, body=PICTURE)[0] == 200
        command.ask_to_stop(number)
        assert command.wait() == (0 if number == signal.SIGTERM else 130), command.err
        assert command.left() == []
    finally:
        command.clean_up()
    with pytest.raises(OSError, match="refused"):
        ask(port, body=PICTURE)
    wait_until_empty(head, home)
    assert head.process.poll() is None


def test_what_is_wrong_is_said_in_words(head, home, tmp_path):
    nobody = free_ports(1)[0]
    assert f"Cannot reach the Ray cluster at cluster.address '127.0.0.1:{nobody}'" in refused(
        home, "--address", f"127.0.0.1:{nobody}"
    )
    write_tuned(tmp_path / "package", "zoo")
    assert "There is no token for the Ray cluster" in refused(tmp_path, "--address", head.address)
    token = tmp_path / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text("0" * 32)
    token.chmod(0o600)
    assert f"refuses the token of {token}" in refused(tmp_path, "--address", head.address)
    assert "port is 0" in refused(home, "--address", head.address, "--port", "0")
    wait_until_empty(head, home)


def test_the_endpoint_of_a_killed_command_ends_by_itself(head, home):
    command, port = start(head, home)
    try:
        assert ask(port, body=PICTURE)[0] == 200
        command.process.kill()
        command.process.wait()
        end = time.monotonic() + 60
        while answers(port):
            assert time.monotonic() < end
            time.sleep(0.5)
    finally:
        command.clean_up()
    wait_until_empty(head, home)


def answers(port):
    try:
        return ask(port, body=PICTURE)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_cluster_that_goes_away_ends_the_command_in_words(tmp_path):
    write_tuned(tmp_path / "package", "zoo")
    with ray_head(tmp_path / "home") as lost:
        command, port = start(lost, tmp_path)
        assert ask(port, body=PICTURE)[0] == 200
    try:
        assert command.wait() == 1, command.err
        assert f"The Ray cluster at {lost.address} has not answered for 20 s" in command.err
        assert "Traceback" not in command.err
        assert command.left() == []
    finally:
        command.clean_up()
    assert not answers(port)
