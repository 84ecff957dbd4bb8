"""Faults in a run across hosts, and how long it takes until the run goes on.

    host_faults.py FILE

prints the table of what `tests/integration/test_hosts_faults.py` has written into FILE.
"""

from __future__ import annotations

import collections
import itertools
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from host_cluster import Cluster
from hosts import PATIENCE_S, Host
from running import steps_log

CONFIG = """
name: {name}
storage: '{storage}'
data: {{source: '{source}', global_batch_size: 16, image_size: 16}}
model: {{backbone: none, weights: none, pooling: flatten, hidden: [16], dropout: 0.2}}
freeze: {{depth: 0}}
train: {{epochs: 18, log_every_steps: 1, step: "own_steps:watched"}}
cluster: {{address: '{address}', workers: 2, cpus_per_worker: 1, max_failures: 20}}
"""
PICTURES, STEPS = 300, 288
# Seconds of a step, for `own_steps.watched`.
PACE_S = 0.05
# A fault strikes after the first step, the next one after so many more.
FIRST, EVERY = 15, 30
# So many steps beyond it the run has recovered; among them lies a checkpoint, which an epoch of 16 steps ends with.
BEYOND = 18
# Workers wait so many steps after a fault is due until it has struck.
SLACK = 5
# Of a command that is refused.
REFUSED = 2


@dataclass
class Run:
    """A run in which something breaks.

    Attributes:
        made: Its cluster.
        name: Of the run.
        driver: Where `rayft train` runs.
        process: That command.
        others: Hosts where it is given next, should the driver's be lost.
    """

    made: Cluster
    name: str
    driver: Host
    process: Popen
    others: list[Host]

    @classmethod
    def begin(cls, made: Cluster, name: str, *drivers: Host) -> Run:
        """Give the command on the first of the hosts, with no memory of earlier runs."""
        for host in made.hosts:
            host.file("steps.log").unlink(missing_ok=True)
            host.file("limit.txt").write_text(str(FIRST + SLACK))
        driver, *others = drivers
        return cls(made, name, driver, _give_command(made, name, driver), others)

    def repeat(self) -> None:
        """Give the same command again."""
        self.process = _give_command(self.made, self.name, self.driver)

    def let_on(self, step: int) -> None:
        """Let the workers go on to a later step."""
        for host in self.made.hosts:
            host.file("limit.txt").write_text(str(step))

    def steps(self) -> list[tuple[float, int, str, int, int]]:
        """Return (time, rank, host, process, step) of all steps that were begun, ascending in time."""
        return sorted(
            (at, rank, host.name, pid, step)
            for host in self.made.hosts
            for at, rank, pid, step in steps_log(host.file("."))
        )

    def advances(self) -> list[tuple[float, int]]:
        """Return (time, step) of each step when a worker first began it, none of those that are taken again."""
        found: list[tuple[float, int]] = []
        for at, _, _, _, step in self.steps():
            if not found or step > found[-1][1]:
                found.append((at, step))
        return found

    def reached(self) -> int:
        """Return the last step that was begun."""
        return max((step for _, step in self.advances()), default=-1)

    def worker(self, rank: int) -> tuple[Host, int]:
        """Return where a rank last began a step: the host, and the process as the host numbers it."""
        _, _, name, pid, _ = [line for line in self.steps() if line[1] == rank][-1]
        return next(host for host in self.made.hosts if host.name == name), pid

    def wait_beyond(self, step: int) -> int | None:
        """Wait until a later step has begun; returns the command's exit code where it ended before that."""
        end = time.monotonic() + PATIENCE_S
        while self.reached() <= step:
            if self.process.poll() is not None:
                return self.process.returncode
            assert time.monotonic() < end, f"nothing goes on after step {self.reached()}: {self.said()}"
            time.sleep(0.05)
        return None

    def said(self) -> str:
        """Return what the command printed."""
        return self.driver.file(f"{self.name}.txt").read_text()

    def end(self) -> None:
        """End the command, and with it its workers, if it has not ended by itself."""
        if self.process.poll() is None:
            self.driver.signal("-m rayft train", signal.SIGKILL)
            self.process.wait()


def _give_command(made: Cluster, name: str, driver: Host) -> Popen:
    places = {"storage": made.bucket.uri(""), "source": made.bucket.uri("data/pictures.parquet")}
    return made.rayft(driver, "train", CONFIG.format(name=name, address=made.address, **places), out=f"{name}.txt")


def _kill(run: Run, rank: int) -> None:
    host, pid = run.worker(rank)
    host.run("kill", "-KILL", str(pid))


def _stop(run: Run, rank: int) -> None:
    host, pid = run.worker(rank)
    host.run("kill", "-STOP", str(pid))


def _lose_host(run: Run, rank: int) -> None:
    host, _ = run.worker(rank)
    run.made.hosts.remove(host)
    host.kill()


def _part(seconds: float) -> Callable[[Run, int], None]:
    def part(run: Run, rank: int) -> None:
        one, other = run.worker(0)[0], run.worker(1)[0]
        run.made.net.part(one, other)
        time.sleep(seconds)
        run.made.net.join(one, other)

    return part


def _slow_down(run: Run, rank: int) -> dict[str, Any]:
    """Slow the wire of a host for some steps; returns how long these took, and those before."""
    host, before = run.worker(rank)[0], run.advances()[-SLACK:]
    host.limit(50)
    host.delay(50)
    run.wait_beyond(before[-1][1] + BEYOND)
    host.delay(0)
    host.limit(10_000)
    return {"step_s": _pace(run.advances()[-BEYOND:]), "step_s_before": _pace(before)}


def _pace(advances: list[tuple[float, int]]) -> float:
    seconds = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(advances)]
    return round(statistics.median(seconds), 3)


def _fail_store(run: Run, rank: int) -> None:
    run.made.fail_store(30)


def _lose_driver(run: Run, rank: int) -> dict[str, Any]:
    """Lose the driver's host; somebody gives the same command on another, until it is no longer refused."""
    run.made.hosts.remove(run.driver)
    run.driver.kill()
    run.driver = run.others.pop(0)
    # The workers take the steps that they have begun together.
    time.sleep(5)
    lost_at, refusals = run.reached(), 0
    run.repeat()
    while run.wait_beyond(lost_at) == REFUSED:
        refusals += 1
        time.sleep(3)
        run.repeat()
    return {"refusals": refusals, "reached": lost_at}


FAULTS: dict[str, Callable[[Run, int], dict[str, Any] | None]] = {
    "worker SIGKILL": _kill,
    "worker SIGSTOP": _stop,
    "partition of 5 s": _part(5),
    "partition of 60 s": _part(60),
    "50 Mbit/s and 100 ms": _slow_down,
    "store answers 503 for 30 s": _fail_store,
    "worker's host gone": _lose_host,
    "driver's host gone": _lose_driver,
}


def strike(run: Run, fault: str, number: int) -> dict[str, Any]:
    """Let a fault strike, the ``number``-th of the run, from 0; returns what came of it.

    The seconds to recover end with the longest time in which no worker began a step that none had begun before.
    """
    due = FIRST + EVERY * number
    code = run.wait_beyond(due)
    assert code is None, run.said()
    # The monitor is where nobody loses it but with the driver.
    desks = [host for host in run.made.hosts if any(line.startswith("ray::Monitor") for line in _lines(host))]
    assert desks == [run.driver]
    run.let_on(due + EVERY + SLACK)
    reached, at = run.reached(), time.time()
    # The chief in every second try.
    rank = (number + 1) % 2
    found = FAULTS[fault](run, rank) or {}
    code = run.wait_beyond(reached + BEYOND)
    if code is not None:
        found |= {"said": run.said()[-600:]}
        run.repeat()
        assert run.wait_beyond(reached + BEYOND) is None, run.said()
    moments = [at, *(each for each, _ in run.advances() if each > at)]
    _, recovered = max((later - earlier, later) for earlier, later in itertools.pairwise(moments))
    tried = {"fault": fault, "rank": rank, "step": reached, "exit": code, "recovered_s": round(recovered - at, 1)}
    return {**tried, **found}


def _lines(host: Host) -> list[str]:
    return list(host.processes().values())


def table(lines: list[dict[str, Any]]) -> str:
    """Return a line of Markdown for each fault: how its tries ended, and the seconds, as median, least and most."""
    tries = collections.defaultdict(list)
    for line in lines:
        tries[line["fault"]].append(line)
    rows = ["| fault | tries | went on by themselves | same numbers | seconds to recover |", "|---|---|---|---|---|"]
    for fault, found in tries.items():
        seconds = sorted(each["recovered_s"] for each in found)
        alone = sum(each["exit"] is None for each in found)
        same = sum(each["same"] for each in found)
        spread = f"{statistics.median(seconds):.0f} ({seconds[0]:.0f} to {seconds[-1]:.0f})"
        rows.append(f"| {fault} | {len(found)} | {alone} | {same} | {spread} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]))
