"""A real Ray cluster of one head on loopback, with token authentication, ports and a folder of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE_S = 120


@dataclass(frozen=True)
class Head:
    """A running head.

    Attributes:
        url: Of its dashboard.
        address: host:port that other nodes join.
        folder: Its sessions and logs.
        token: Of the cluster.
        process: `ray start --block`.
    """

    url: str
    address: str
    folder: Path
    token: str
    process: subprocess.Popen


@contextlib.contextmanager
def ray_head(home: Path, *, cpus: int = 2, **variables: str) -> Iterator[Head]:
    """Start a head whose HOME is ``home`` as an administrator would; it ends with the block, by its process ids."""
    token = secrets.token_hex(16)
    home.joinpath(".ray").mkdir(parents=True, exist_ok=True)
    token_file = home / ".ray" / "auth_token"
    token_file.write_text(token)
    token_file.chmod(0o600)
    # Sockets lie in it; their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="rj"))
    ports = free_ports(8)
    names = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "node-manager-port",
        "object-manager-port",
        "ray-client-server-port",
    )
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--num-cpus={cpus}", f"--temp-dir={folder}"),
        *(f"--{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **{"HOME": str(home), "PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"},
        **variables,
    }
    log = folder / "start.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    head = Head(f"http://127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[0]}", folder, token, process)
    try:
        _wait_for(head, log)
        yield head
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def processes_of(head: Head) -> list[int]:
    """Return what runs in the cluster's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if str(head.folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _wait_for(head: Head, log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    request = urllib.request.Request(f"{head.url}/api/v0/nodes", headers={"Authorization": f"Bearer {head.token}"})
    while True:
        assert head.process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                if b"ALIVE" in answer.read():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.3)


def _end(head: Head) -> None:
    head.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.process.wait(3)
    for pid in processes_of(head):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    head.process.kill()
    head.process.wait()
