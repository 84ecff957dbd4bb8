"""The hosts that other tests use are what they say: slow, cut, counted, dead, and gone afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import HERE, network, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

SERVER = """
import socket
server = socket.create_server(("", 7000))
print("up", flush=True)
while True:
    client, _ = server.accept()
    while client.recv(1 << 20):
        pass
    client.sendall(b"x")
"""
CLIENT = """
import socket, sys, time
start = time.monotonic()
with socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[3])) as server:
    server.sendall(bytes(int(sys.argv[2])))
    server.shutdown(socket.SHUT_WR)
    server.recv(1)
print(time.monotonic() - start)
"""
# Its children write their numbers, and it then waits for its death.
MAKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from hosts import network
with network() as net:
    hosts = [net.host("one"), net.host("two", slowable=True)]
    hosts[0].start("sleep", "600")
    print(net.home, *[host.init for host in hosts], *[host.keeper.pid for host in hosts], hosts[1].wire.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def hosts():
    with network() as net:
        made = [net.host("one"), net.host("two"), net.host("far", slowable=True)]
        for host in made:
            host.start(sys.executable, "-ISc", SERVER, out=host.file("up"))
        for host in made:
            while not host.file("up").exists() or not host.file("up").read_text():
                time.sleep(0.02)
        yield net, *made


def send(source, target, size=1, patience_s=20):
    """Return how long it took; None where nobody answered in time."""
    said = source.run(sys.executable, "-ISc", CLIENT, target.name, str(size), str(patience_s), check=False)
    try:
        return float(said)
    except ValueError:
        assert "TimeoutError" in said or "Network is unreachable" in said, said
        return None


def test_a_host_has_a_name_processes_and_files_of_its_own(hosts):
    _, one, two, _ = hosts
    one.file("mine").write_text("one")
    assert one.run("sh", "-c", "hostname; cat mine").split() == ["one", "one"]
    assert not two.file("mine").exists()
    assert not (one.home / "mine").exists()
    assert all("sleep" not in line for line in two.processes().values())
    process = one.start("sleep", "600")
    try:
        while not any(line == "sleep 600" for line in one.processes().values()):
            time.sleep(0.02)
        assert one.signal("sleep 600", signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()


def test_the_interface_counts_what_is_sent(hosts):
    _, one, two, _ = hosts
    before = one.counters()[1]
    send(one, two, 10_000_000)
    sent = one.counters()[1] - before
    # 66 bytes of headers go with 1448 of content; where the kernel sends larger pieces, with more.
    assert 10_000_000 < sent < 10_000_000 * 1514 / 1448 * 1.02


def test_a_wire_is_as_slow_as_it_is_told(hosts):
    _, one, two, far = hosts
    assert send(one, two, 5_000_000) < 0.6
    two.limit(50)
    try:
        assert 5e6 * 8 / 50e6 * 0.9 < send(one, two, 5_000_000) < 5e6 * 8 / 50e6 * 2
    finally:
        two.limit(10_000)
    assert send(one, far) < 0.1
    far.delay(50)
    try:
        # To connect takes one way there and back, the answer another.
        assert 0.2 <= send(one, far) < 0.6
    finally:
        far.delay(0)


def test_a_partition_parts_two_hosts_and_no_others(hosts):
    net, one, two, far = hosts
    net.part(one, two)
    try:
        assert send(one, two, patience_s=0.5) is None
        assert send(two, one, patience_s=0.5) is None
        assert send(far, two) is not None
        assert send(one, far) is not None
    finally:
        net.join(one, two)
    assert send(one, two) is not None


def test_a_killed_host_says_no_farewell(hosts):
    net, one, _, _ = hosts
    victim = net.host("victim")
    process = victim.start(sys.executable, "-ISc", SERVER)
    code = "import socket; s = socket.create_connection(('victim', 7000)); s.settimeout(0.3); print(s.recv(1))"
    while "TimeoutError" not in one.run(sys.executable, "-ISc", code, check=False):
        time.sleep(0.1)
    listener = one.start(sys.executable, "-ISc", code.replace("(0.3)", "(1.5)"), out=one.file("heard"))
    time.sleep(0.3)
    victim.kill()
    assert process.wait(10) == -signal.SIGKILL
    listener.wait(30)
    assert "TimeoutError" in one.file("heard").read_text()


def test_hosts_end_with_the_process_that_made_them():
    maker = subprocess.Popen([sys.executable, "-c", MAKER, str(HERE)], stdout=subprocess.PIPE, text=True)
    with maker.stdout:
        home, *pids = maker.stdout.readline().split()
    maker.kill()
    maker.wait()
    try:
        end = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        os.rmdir(home)
