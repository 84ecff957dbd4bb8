"""An HTTP client that loads a server on this machine: as fast as it answers, or at a fixed rate."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

RETRY_AFTER_S = 0.2


@dataclass
class Outcome:
    """What came of a load.

    Attributes:
        seconds: From the first request to the last answer.
        statuses: Answers by HTTP status; 0 counts requests without an answer.
        latencies_ms: Of the answers with status 200, from when the request was due.
        late_ms: By how much requests were sent too late, which the latencies contain; ``open_loop`` only.
        pending: Requests that wait for their answer now.
    """

    seconds: float
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    latencies_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    pending: int = 0

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return self.statuses[200] / self.seconds

    def quantile_ms(self, hundredth: int) -> float:
        """Return a percentile of the latencies, in milliseconds."""
        return _quantile(self.latencies_ms, hundredth)

    def late_quantile_ms(self, hundredth: int) -> float:
        """Return a percentile of the lateness of this client, in milliseconds."""
        return _quantile(self.late_ms, hundredth)


def request(path: str, body: bytes, content_type: str) -> bytes:
    """Return the bytes of one POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def closed_loop(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> Outcome:
    """Keep every connection busy: each sends the next request once it has its answer."""
    outcome = Outcome(0.0)
    started = time.perf_counter()

    async def client(number: int) -> None:
        connection = _Connection(port)
        index = number
        while (sent := time.perf_counter()) - started < seconds:
            status = await connection.ask(requests[index % len(requests)])
            _note(outcome, status, sent)
            index += connections
        connection.close()

    await asyncio.gather(*(client(number) for number in range(connections)))
    outcome.seconds = time.perf_counter() - started
    return outcome


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    *,
    per_s: float,
    seconds: float,
    retries: int = 0,
    outcome: Outcome | None = None,
) -> Outcome:
    """Send requests at fixed times, whether or not earlier ones were answered.

    Args:
        port: Of the server, on this machine.
        requests: Sent in turn.
        per_s: Rate.
        seconds: Length.
        retries: How often one without an answer, or with 429 or 503, is sent again, as the endpoint's docs say.
        outcome: Filled while the load runs, for who looks on; a new one if not given.
    """
    outcome = outcome or Outcome(0.0)
    idle: list[_Connection] = []
    started = time.perf_counter()

    async def send(index: int, due: float) -> None:
        outcome.late_ms.append(1e3 * (time.perf_counter() - due))
        connection = idle.pop() if idle else _Connection(port)
        outcome.pending += 1
        status = await connection.ask(requests[index % len(requests)])
        for attempt in range(retries):
            if status not in (0, 429, 503):
                break
            await asyncio.sleep(RETRY_AFTER_S * 2**attempt)
            status = await connection.ask(requests[index % len(requests)])
        outcome.pending -= 1
        _note(outcome, status, due)
        idle.append(connection)

    tasks = []
    for index in range(int(per_s * seconds)):
        due = started + index / per_s
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(send(index, due)))
    await asyncio.gather(*tasks)
    outcome.seconds = time.perf_counter() - started
    for connection in idle:
        connection.close()
    return outcome


def cpu_seconds(root: int) -> float:
    """Return the CPU time that a process and all below it have used so far."""
    return sum(int(fields[11]) + int(fields[12]) for fields in _family(root).values()) / 100


def family(root: int) -> list[int]:
    """Return a process and all below it that live."""
    return list(_family(root))


def _family(root: int) -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat behind the name, of a process and all below it."""
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # A process may end while it is looked at.
            with contextlib.suppress(OSError):
                stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
    found, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        if pid in stats:
            found[pid] = stats[pid]
        waiting.extend(child for child, fields in stats.items() if int(fields[1]) == pid)
    return found


def _quantile(values: list[float], hundredth: int) -> float:
    return statistics.quantiles(values, n=100)[hundredth - 1] if len(values) > 1 else float("nan")


def _note(outcome: Outcome, status: int, since: float) -> None:
    outcome.statuses[status] += 1
    if status == 200:
        outcome.latencies_ms.append(1e3 * (time.perf_counter() - since))


class _Connection:
    """One keep-alive connection, opened when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, content: bytes) -> int:
        """Send a request and read its answer; returns the status, 0 where there is none."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(content)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return 0
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
