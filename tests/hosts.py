"""Hosts of their own on one machine: namespaces joined by a router, whose wires can be slowed, cut and counted.

A host has its own network, processes, name, shared memory and folder, as machines have; the Python environment and
this repository are what it shares, as an image would bring them. Nothing has a name that outlasts the test: when the
process that made the hosts ends, however it ends, the kernel takes away all that was theirs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from slow_wire import enter_network

T = TypeVar("T")
HERE = Path(__file__).parent
PATIENCE_S = 900
_TOOLS = ("ip", "tc", "unshare", "nsenter", "setpriv", "mount")
# The first process of a host. It ignores its children, so that the kernel reaps those that it inherits.
_INIT = """
import os, signal, subprocess, sys
name, home = sys.argv[1:]
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
def run(*words):
    subprocess.run(words, check=True)
for place, size in ((home, "4g"), ("/dev/shm", "1g")):
    run("mount", "-t", "tmpfs", "-o", f"size={size},mode=1777", "rayft", place)
open("/proc/sys/kernel/hostname", "w").write(name)
run("ip", "link", "set", "lo", "up")
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


@functools.cache
def why_not() -> str | None:
    """Return why this machine allows no hosts of their own; None where it does."""
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install iproute2 util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with network() as net:
            net.host("probe")
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        return f"no namespaces here: {error}"
    return None


@dataclass
class Host:
    """A machine of its own.

    Attributes:
        name: Its host name, known to all others.
        address: Its one address beside loopback.
        home: A folder at the same path on every host, with content of its own on each.
        init: Its first process, as this side numbers it; with it ends the host.
        router: The router's.
        keeper: With it ends the first process.
        wire: The process that is its wire, where that can be slowed.
        variables: More environment of its processes.
    """

    name: str
    address: str
    home: Path
    init: int
    router: int
    keeper: subprocess.Popen
    wire: subprocess.Popen | None = None
    variables: dict[str, str] = field(default_factory=dict)
    _started: list[subprocess.Popen] = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        """Return the command that runs ``words`` on the host, in its home."""
        return [*_enter(self.init), f"--wdns={self.home}", "--", *words]

    def environment(self) -> dict[str, str]:
        """Return what a process of the host sees; nothing of this side."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": f"{HERE}:{HERE.parent}",
            **self.variables,
        }

    def start(self, *words: str, out: Path | None = None) -> subprocess.Popen:
        """Start a command; ``out`` gets what it says, on both streams."""
        with (out or Path(os.devnull)).open("ab") as file:
            process = subprocess.Popen(
                self.command(*words),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self._started.append(process)
        return process

    def run(self, *words: str, timeout_s: float = PATIENCE_S, check: bool = True) -> str:
        """Run a command to its end; returns what it said, on both streams."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        assert not check or done.returncode == 0, f"{self.name}: {' '.join(words)}\n{done.stdout}"
        return done.stdout

    def file(self, place: str | Path) -> Path:
        """Return where this side sees a file of the host; relative ones lie in its home."""
        return Path(f"/proc/{self.init}/root") / str(self.home / place).lstrip("/")

    def processes(self) -> dict[int, str]:
        """Return the command line of each of its processes, the first one apart, as this side numbers them."""
        return {pid: line for pid, line in _processes_beside(self.init).items() if pid != self.init and line}

    def in_its_network(self, function: Callable[[], T]) -> T:
        """Call a function of this side, in a thread whose network is the host's."""

        def call() -> T:
            enter_network(self.init)
            return function()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(call).result()

    def signal(self, title: str, number: signal.Signals) -> list[int]:
        """Send a signal to its processes whose command line holds ``title``; returns which."""
        found = [pid for pid, line in self.processes().items() if title in line]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return found

    def counters(self) -> tuple[int, int]:
        """Return the bytes (received, sent) of its interface, headers included."""
        return _counters(self.init, "eth0")

    def limit(self, mbit: float) -> None:
        """Bound its wire's bandwidth, each way."""
        # A bucket of 2 ms, and a queue of 100 ms as switches have.
        bucket = max(16_000, int(mbit * 1e6 / 8 * 0.002))
        for pid, device in ((self.init, "eth0"), (self.router, self.name)):
            words = f"qdisc replace dev {device} root tbf rate {mbit}mbit burst {bucket} latency 100ms"
            _inside(pid, "tc", *words.split())

    def delay(self, ms: float) -> None:
        """Let its wire take so long, each way."""
        assert self.wire is not None, f"the wire of {self.name} is not slowable"
        assert self.wire.stdin is not None
        self.wire.stdin.write(f"{ms}\n")
        self.wire.stdin.flush()

    def unplug(self, plugged: bool = False) -> None:
        """Pull its cable; nobody hears a farewell."""
        _inside(self.router, "ip", "link", "set", self.name, "up" if plugged else "down")

    def kill(self) -> None:
        """Cut its power: cable and processes are gone at once."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.unplug()
        self.keeper.kill()
        self.keeper.wait()
        for process in self._started:
            process.wait()
        if self.wire is not None:
            self.wire.kill()
            self.wire.communicate()


class Network:
    """Hosts, and the router between them; make it with ``network``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.hosts: list[Host] = []
        self._router_keeper, self._router = _start_init("router", home)
        # Whose settings /proc/sys/net holds depends on who opens it.
        _inside(self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def host(self, name: str, *, slowable: bool = False, variables: dict[str, str] | None = None) -> Host:
        """Add a host, at the end of a wire of its own to the router.

        Args:
            name: Host name, at most 12 letters.
            slowable: Its wire can be given a delay; it takes a process that carries each frame.
            variables: More environment of its processes.
        """
        number = len(self.hosts) + 1
        keeper, init = _start_init(name, self.home)
        host = Host(name, f"10.77.{number}.2", self.home, init, self._router, keeper, variables=variables or {})
        self.hosts.append(host)
        if slowable:
            host.wire = _start_wire(init, self._router, name)
        else:
            _run(
                "ip",
                "link",
                "add",
                "eth0",
                "netns",
                str(init),
                "type",
                "veth",
                "peer",
                name,
                "netns",
                str(self._router),
            )
        for pid, device, address in ((init, "eth0", host.address), (self._router, name, f"10.77.{number}.1")):
            _inside(pid, "ip", "addr", "add", f"{address}/24", "dev", device)
            _inside(pid, "ip", "link", "set", device, "up")
        _inside(init, "ip", "route", "add", "default", "via", f"10.77.{number}.1")
        self._tell_names()
        return host

    def part(self, one: Host, other: Host) -> None:
        """Lose every packet between two hosts, silently; both still reach all others."""
        for source, target in ((one, other), (other, one)):
            words = f"rule add pref 100 from {source.address} to {target.address} blackhole"
            _inside(self._router, "ip", *words.split())

    def join(self, one: Host, other: Host) -> None:
        """Take back ``part``."""
        for source, target in ((one, other), (other, one)):
            words = f"rule del pref 100 from {source.address} to {target.address} blackhole"
            _inside(self._router, "ip", *words.split())

    def close(self) -> None:
        """End all hosts and the router."""
        for host in self.hosts:
            host.kill()
        self._router_keeper.kill()
        self._router_keeper.wait()

    def _tell_names(self) -> None:
        lines = "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        for host in self.hosts:
            if host.keeper.poll() is not None:
                # Killed by a test.
                continue
            names = host.file("hosts")
            fresh = not names.exists()
            names.write_text(f"127.0.0.1 localhost\n{lines}")
            if fresh:
                _run(*_enter(host.init), "--", "mount", "--bind", str(self.home / "hosts"), "/etc/hosts")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Give a network for the length of a block."""
    # Short: paths of sockets end at 107 letters, and Ray's are long.
    home = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))
    net = None
    try:
        net = Network(home)
        yield net
    finally:
        if net is not None:
            net.close()
        _wait_for_removal(home)


def _wait_for_removal(home: Path) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            home.rmdir()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _start_init(name: str, home: Path) -> tuple[subprocess.Popen, int]:
    """Start a host's first process; returns what keeps it, and its number."""
    unshare = "unshare --net --pid --mount --uts --ipc --fork --kill-child=KILL --mount-proc --propagation private"
    keeper = subprocess.Popen(
        # It ends with this process, however that ends.
        ["setpriv", "--pdeathsig", "KILL", *unshare.split(), sys.executable, "-ISc", _INIT, name, str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    with keeper.stdout, keeper.stderr:
        if keeper.stdout.readline() != "ready\n":
            keeper.kill()
            raise RuntimeError((keeper.stderr.read().strip().splitlines() or ["no reason given"])[-1])
    children = Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()
    return keeper, int(children[0])


def _start_wire(init: int, router: int, name: str) -> subprocess.Popen:
    words = [str(HERE / "slow_wire.py"), str(init), "eth0", str(router), name]
    wire = subprocess.Popen(
        # It ends with this process, as the hosts do.
        ["setpriv", "--pdeathsig", "KILL", sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert wire.stdout is not None
    with wire.stdout:
        if wire.stdout.readline() != "ready\n":
            wire.kill()
            raise RuntimeError(f"no wire to {name}")
    return wire


def _enter(pid: int) -> list[str]:
    return ["nsenter", "-t", str(pid), "-n", "-p", "-m", "-u", "-i"]


def _inside(pid: int, *words: str) -> None:
    """Run a command of this side in another network."""
    _run("nsenter", "-t", str(pid), "-n", "--", *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _counters(pid: int, device: str) -> tuple[int, int]:
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == device:
            fields = rest.split()
            return int(fields[0]), int(fields[8])
    raise LookupError(device)


def _processes_beside(init: int) -> dict[int, str]:
    """Return the command lines of the processes in the same host as ``init``."""
    space = os.readlink(f"/proc/{init}/ns/pid")
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns" / "pid") == space:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = line.decode(errors="replace").strip()
    return found
