"""A Ray cluster over hosts of their own, with a store for what they share."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import signal
import sys
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from subprocess import Popen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from host_store import KEYS
from hosts import HERE, PATIENCE_S, Host, Network, network
from PIL import Image
from s3_server import Bucket

GCS_PORT, S3_PORT = 6379, 9000
_KNOWN = f"AWS4-HMAC-SHA256 Credential={KEYS['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/s3/aws4_request"
_MEMORY = 100_000_000  # Ray's least is 75 MiB.
# A node ends when its agents take 15 s to say which ports they found, as they do on a loaded machine.
_AGENT_PORTS = {
    "dashboard-agent-listen": 52365,
    "dashboard-agent-grpc": 52366,
    "metrics-export": 52367,
    "runtime-env-agent": 52368,
}
# On a loaded machine a node may give up its start, which Ray allows 30 s.
_STARTS = 5
# Otherwise the driver's host starts a Python process for each CPU that it claims to have.
_SPARING = {"RAY_prestart_worker_first_driver": "0"}


@dataclass
class Cluster:
    """Hosts under Ray; the first is its head.

    Attributes:
        net: Where more hosts come from.
        store: The host of the S3 server.
        hosts: The head, then those that joined.
        cpus: What Ray may give away on each host.
        variables: Environment of all hosts, such as where the certificates lie.
        files: Content of files in the home of every host; nobody else may read them.
    """

    net: Network
    store: Host
    cpus: int
    variables: dict[str, str]
    files: dict[str, bytes]
    hosts: list[Host] = field(default_factory=list)

    @property
    def head(self) -> Host:
        """The host of Ray's global control store."""
        return self.hosts[0]

    @property
    def address(self) -> str:
        """For ``cluster.address``."""
        return f"{self.head.address}:{GCS_PORT}"

    @property
    def bucket(self) -> Bucket:
        """Where hosts share files."""
        return Bucket(f"{self.store.address}:{S3_PORT}")

    def new_host(self, name: str, *, slowable: bool = False) -> Host:
        """Add a machine that belongs to no cluster yet."""
        host = self.net.host(name, slowable=slowable, variables=self.variables)
        for file, content in self.files.items():
            where = host.file(file)
            where.touch(0o600)
            where.write_bytes(content)
        return host

    def join(self, *hosts: Host, cpus: int | None = None, check: bool = True) -> list[str]:
        """Start Ray on hosts, the first of a cluster as its head; returns what it said on each."""
        if not self.hosts:
            first, *hosts = hosts
            said = self._start([first], "--head", f"--port={GCS_PORT}", cpus=cpus, check=check)
            return said + (self.join(*hosts, cpus=cpus, check=check) if hosts else [])
        return self._start(hosts, f"--address={self.address}", cpus=cpus, check=check)

    def _start(self, hosts: Sequence[Host], *where: str, cpus: int | None, check: bool) -> list[str]:
        starting = [(host, self._start_ray(host, *where, cpus=cpus)) for host in hosts]
        said = []
        for host, process in starting:
            for left in range(_STARTS - 1, -1, -1):
                code = process.wait(PATIENCE_S)
                text = host.file("ray.txt").read_text()
                if code == 0 or not check:
                    break
                assert left, f"{host.name}: {text}"
                host.signal("", signal.SIGKILL)
                process = self._start_ray(host, *where, cpus=cpus)
            said.append(text)
            if code == 0:
                self.hosts.append(host)
        return said

    def _start_ray(self, host: Host, *where: str, cpus: int | None) -> Popen:
        # The address in words: hosts of a test may have several.
        options = [f"--node-ip-address={host.address}", f"--num-cpus={self.cpus if cpus is None else cpus}"]
        options += [f"--object-store-memory={_MEMORY}", "--disable-usage-stats"]
        options += [f"--{name}-port={port}" for name, port in _AGENT_PORTS.items()]
        if "--head" in where:
            options += [f"--temp-dir={host.home}/ray", "--include-dashboard=false"]
        words = ["-m", "ray.scripts.scripts", "start", *where, *options]
        return host.start(sys.executable, *words, out=host.file("ray.txt"))

    def fail_store(self, seconds: float) -> None:
        """Let the store answer 503 for so long."""
        self._ask(f"outage/{seconds}", b"")

    def write(self, place: str, content: bytes) -> None:
        """Put a file into the bucket, or make the bucket where ``place`` is empty."""
        self._ask(f"bucket/{place}".rstrip("/"), content)

    def read(self, place: str) -> bytes:
        """Return a file of the bucket."""
        return self._ask(f"bucket/{place}")

    def names(self, folder: str) -> list[str]:
        """Return the files below a folder of the bucket."""
        listing = ElementTree.fromstring(self._ask(f"bucket?list-type=2&prefix={folder}/"))
        return sorted(key.text or "" for key in listing.iter() if key.tag.endswith("}Key"))

    def trace(self, run: str) -> list[tuple[int, float]]:
        """Return (step, loss) of each line of a run's metrics.jsonl; none where the run has none yet."""
        if f"runs/{run}/metrics.jsonl" not in self.names(f"runs/{run}"):
            return []
        lines = [json.loads(line) for line in self.read(f"runs/{run}/metrics.jsonl").splitlines()]
        return [(line["step"], line["loss"]) for line in lines]

    def state(self, run: str) -> dict[str, np.ndarray]:
        """Return the variables of a run's last checkpoint."""
        last = [name for name in self.names(f"runs/{run}/checkpoints") if name.endswith("/state.npz")][-1]
        with np.load(io.BytesIO(self.read(last))) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def result(self, run: str) -> dict:
        """Return a run's result.json."""
        return json.loads(self.read(f"runs/{run}/result.json"))

    def _open_store(self) -> None:
        """Make the bucket, once the server is up."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.write("", b"")
            except OSError:
                assert time.monotonic() < end, "no store"
                time.sleep(0.2)

    def _ask(self, path: str, content: bytes | None = None) -> bytes:
        request = urllib.request.Request(
            f"http://{self.bucket.address}/{path}",
            data=content,
            # Without a type it would be taken for a form, without a name for a stranger's.
            headers={"Content-Type": "application/octet-stream", "Authorization": _KNOWN},
            method="GET" if content is None else "PUT",
        )

        def ask() -> bytes:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.read()

        return self.store.in_its_network(ask)

    def wait_at_gate(self, step: int, process: Popen) -> None:
        """Wait until the worker of each host of a run with `own_steps.gated` waits before ``step``."""
        end = time.monotonic() + PATIENCE_S
        places = [host.file("at_gate.txt") for host in self.hosts]
        while not all(place.exists() and place.read_text() == str(step) for place in places):
            assert process.poll() is None, f"the run ended before step {step}"
            assert time.monotonic() < end, f"not all came to step {step}"
            time.sleep(0.02)

    def open_gate(self, step: int) -> None:
        """Let the workers go on from ``step`` to the next gate."""
        for host in self.hosts:
            host.file("gate.txt").write_text(str(step))

    def rayft(self, host: Host, command: str, config: str, *words: str, out: str = "out.txt") -> Popen:
        """Start a command of `rayft` on a host; ``out`` in its home gets what it says."""
        host.file("config.yaml").write_text(config)
        return host.start(sys.executable, "-m", "rayft", command, "config.yaml", *words, out=host.file(out))


@contextlib.contextmanager
def cluster(
    names: tuple[str, ...],
    *,
    cpus: int = 1,
    variables: dict[str, str] | None = None,
    files: dict[str, bytes] | None = None,
    slowable: tuple[str, ...] = (),
    start: bool = True,
) -> Iterator[Cluster]:
    """Give a cluster of hosts with token authentication, and an S3 server on another host.

    Args:
        names: Of the hosts; the first is the head.
        cpus: What Ray may give away on each host.
        variables: More environment of all hosts.
        files: More files in the home of every host.
        slowable: Those of the hosts whose wire can be given a delay.
        start: Start Ray on all of them.
    """
    with network() as net:
        store = net.host("store")
        store.start(sys.executable, str(HERE / "host_store.py"), store.address, str(S3_PORT))
        token = f"{net.home}/token"
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token, **KEYS, **_SPARING, **(variables or {})}
        secret = {"token": secrets.token_hex(32).encode(), **(files or {})}
        made = Cluster(net, store, cpus, settings, secret)
        hosts = [made.new_host(name, slowable=name in slowable) for name in names]
        if start:
            made.join(*hosts)
        made._open_store()
        yield made


def pictures(count: int, side: int = 16) -> bytes:
    """Return a Parquet table of noisy pictures of three classes."""
    random = np.random.default_rng(0)
    encoded, labels = [], []
    for number in range(count):
        pixels = random.integers(0, 150, (side, side, 3), dtype=np.uint8)
        pixels[..., number % 3] += 60
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
        labels.append(["red", "green", "blue"][number % 3])
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": encoded, "label": labels}), sink)
    return sink.getvalue()
