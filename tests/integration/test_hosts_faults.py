"""A run across hosts in which things break, each three times, ends with the numbers of one that nothing disturbed.

Each try becomes a line of runs/host-faults.jsonl, of which `tests/host_faults.py` prints a table.
"""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from host_cluster import cluster, pictures
from host_faults import FAULTS, PACE_S, PICTURES, STEPS, Run, strike
from hosts import PATIENCE_S, why_not

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

MEASURED = Path(__file__).parents[2] / "runs" / "host-faults.jsonl"
TIMES = 3
# Those of a group strike the same run.
GROUPS = {
    "wires and store": ("partition of 5 s", "50 Mbit/s and 100 ms", "store answers 503 for 30 s"),
    "killed": ("worker SIGKILL",),
    "silent": ("worker SIGSTOP", "partition of 60 s"),
    "host": ("worker's host gone",),
    "driver": ("driver's host gone",),
}
assert sorted(sum(GROUPS.values(), ())) == sorted(FAULTS)
WORKERS = 2


@pytest.fixture(scope="module")
def made():
    with cluster(("head",), cpus=0, files={"pace.txt": str(PACE_S).encode()}) as made:
        # The head offers nothing: no worker is on the machine of the driver.
        add_hosts(made, WORKERS)
        made.write("data/pictures.parquet", pictures(PICTURES))
        yield made


@pytest.fixture(scope="module")
def calm(made):
    """The name of a run that nothing disturbed."""
    run = Run.begin(made, "calm", made.head)
    run.let_on(STEPS)
    try:
        assert run.process.wait(PATIENCE_S) == 0, run.said()
    finally:
        run.end()
    assert [step for step, _ in made.trace("calm")] == list(range(1, STEPS + 1))
    return "calm"


def add_hosts(made, count):
    """Add machines until so many offer a CPU."""
    # One after the other: many that start at once on few processors give up.
    while sum(host.name.startswith("w") for host in made.hosts) < count:
        made.join(made.new_host(f"w{len(made.net.hosts)}", slowable=True), cpus=1)


def add_driver(made):
    """Add a machine that no worker is put on."""
    host = made.new_host(f"d{len(made.net.hosts)}")
    made.join(host, cpus=0)
    return host


def prepare(run, fault):
    """Bring the machines that a fault takes away; the workers wait meanwhile."""
    if fault == "worker's host gone":
        add_hosts(run.made, WORKERS + 1)
    if fault == "driver's host gone":
        run.others.insert(0, add_driver(run.made))


def same_numbers(made, run, other):
    """Whether each loss and each variable at the end are the same, bit for bit."""
    one, two = made.state(run), made.state(other)
    equal = [np.array_equal(one[name], two[name], equal_nan=True) for name in one]
    return one.keys() == two.keys() and all(equal) and made.trace(run) == made.trace(other)


def files(made, run):
    """Return what is in a run's folder, but for what TensorBoard reads: each start of the chief writes a file there."""
    found = {name.partition(f"runs/{run}/")[2] for name in made.names(f"runs/{run}")}
    return {name for name in found if not name.startswith("tensorboard/events.")}


def workers_left(made):
    """Return the processes of workers that do not end within a while after the run."""
    end = time.monotonic() + 30
    while True:
        lines = [line for host in made.hosts for line in host.processes().values()]
        left = [line for line in lines if line.startswith("ray::RayTrainWorker")]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.5)


@pytest.mark.parametrize("group", GROUPS)
def test_a_run_recovers_from_faults_with_the_numbers_of_one_without(group, made, calm):
    faults = [fault for fault in GROUPS[group] for _ in range(TIMES)]
    add_hosts(made, WORKERS)
    name = f"{group.split()[0]}-{time.time():.0f}"
    run = Run.begin(made, name, *([add_driver(made)] if "driver's host gone" in faults else []), made.head)
    found = []
    try:
        for number, fault in enumerate(faults):
            prepare(run, fault)
            found.append(strike(run, fault, number))
            print(found[-1], flush=True)
        run.let_on(STEPS)
        assert run.process.wait(PATIENCE_S) == 0, run.said()
    finally:
        run.end()
        print(run.said())
    same, restarts = same_numbers(made, name, calm), made.result(name)["restarts"]
    MEASURED.parent.mkdir(exist_ok=True)
    with MEASURED.open("a") as file:
        file.writelines(json.dumps({**each, "same": same, "restarts_of_run": restarts}) + "\n" for each in found)
    assert same
    # Nothing is missing in the store, and nothing is left over there.
    assert files(made, name) == files(made, calm)
    assert workers_left(made) == []
    for each in found:
        assert each["exit"] is None or ("error: " in each["said"] and "fix: " in each["said"])
