"""Sweeps on a cluster that outlives them leave nothing there, whatever became of a trial or of the driver."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from head_node import processes_of, ray_head
from running import Command, make_home, steps_log
from test_sweep import CONFIG

# What the state of the cluster is, as a driver of its own sees it.
LOOK = """
import json, ray
ray.init(address="{address}", logging_level="ERROR", log_to_driver=False)
states = [group["state"] for group in ray.util.placement_group_table().values()]
print(json.dumps([[state for state in states if state != "REMOVED"], ray.available_resources().get("CPU", 0)]))
"""
# Somebody else's work, which takes one CPU for as long as its process lives.
OTHER = """
import time, ray
ray.init(address="{address}", logging_level="ERROR", log_to_driver=False)
class Other:
    def is_there(self):
        return True
other = ray.remote(num_cpus=1)(Other).remote()
print(ray.get(other.is_there.remote()), flush=True)
time.sleep(3600)
"""
GRID = 'sweep.space={"optim.learning_rate": {"grid": [0.001, 0.01]}}'

pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


def _of_the_cluster(home):
    return {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token"}


def _look(head, home):
    """Return the states of placement groups that are not removed, and the free CPUs."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK.format(address=head.address)],
        env=_of_the_cluster(home),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _workers(head):
    """Map the processes that the cluster's raylet started for actors and tasks to their titles."""
    raylets = [pid for pid in processes_of(head) if "raylet/raylet" in _title(pid)]
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (title := _title(int(entry.name))).startswith("ray::"):
            children[int(entry.name)] = title
    return {pid: title for pid, title in children.items() if _parent(pid) in raylets}


def _process_of_the_trial(head):
    end = time.monotonic() + 30
    while True:
        workers = _workers(head)
        found = [pid for pid, title in workers.items() if re.search("Trainable|TrialActor", title)]
        if len(found) == 1:
            return found[0]
        assert time.monotonic() < end, workers
        time.sleep(0.1)


def _title(pid):
    try:
        # A title is padded to the length of the command that it took the place of.
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _wait_until_empty(head, home):
    end = time.monotonic() + 90
    while True:
        # What is kept for the next task is idle, the agents are the node's, the coordinator is Ray's, one a cluster.
        titles = [title for title in _workers(head).values() if not re.search("IDLE|Agent|Coordinator", title)]
        if (found := _look(head, home)) == ([], 2.0) and not titles:
            return
        assert time.monotonic() < end, (found, titles)
        time.sleep(1)


def test_dead_trials_and_drivers_leave_no_placement_group(tmp_path):
    home = make_home(tmp_path / "work", CONFIG)
    with ray_head(home / "home", cpus=2) as head:
        assert _look(head, home / "home") == ([], 2.0)
        more = [
            f"cluster.address={head.address}",
            "cluster.workers=2",
            "sweep.trial=distributed",
            "sweep.trials=2",
            "sweep.retries=2",
            GRID,
        ]
        arguments = [word for setting in more for word in ("--set", setting)]
        command = Command.start(home, "sweep", "config.yaml", *arguments)
        try:
            command.wait_for_step(15)
            os.kill(_process_of_the_trial(head), signal.SIGKILL)
            lines = len(steps_log(home))
            # Both workers of the trial have their CPUs again.
            command.wait_until(lambda: len(steps_log(home)) > lines + 40)
            assert _look(head, home / "home")[0] == ["CREATED", "CREATED"]
            command.process.kill()
            command.process.wait()
        finally:
            command.clean_up()
        _wait_until_empty(head, home / "home")
        command = Command.start(home, "sweep", "config.yaml", *arguments)
        try:
            assert command.wait() == 0, command.err
        finally:
            command.clean_up()
        _wait_until_empty(head, home / "home")


def test_a_sweep_ends_on_a_cluster_where_others_hold_a_cpu(tmp_path):
    home = make_home(tmp_path / "work", CONFIG)
    with ray_head(home / "home", cpus=2) as head:
        code, environment = OTHER.format(address=head.address), _of_the_cluster(home / "home")
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as other:
            assert other.stdout.readline() == b"True\n"
            # Two slots by what the cluster is, one by what is free of it.
            more = [f"cluster.address={head.address}", "sweep.trials=2", GRID]
            command = Command.start(home, "sweep", "config.yaml", *(word for each in more for word in ("--set", each)))
            try:
                assert command.wait() == 0, command.err
            finally:
                command.clean_up()
                other.kill()
        assert "2 at once" in command.err
