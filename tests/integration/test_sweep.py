"""A sweep that was broken off ends with the trials and metrics of an undisturbed one, bit for bit."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from running import RAY_AGENTS, Command, assert_tidy, make_home, result, steps_log, trace

from rayft.config import ClusterConfig

CONFIG = """
name: search
data: {source: data, global_batch_size: 16, image_size: 16}
model: {backbone: none, weights: none, pooling: flatten, hidden: [16], dropout: 0.2}
freeze: {depth: 0}
train: {epochs: 4, log_every_steps: 1, step: "own_steps:watched", precision: float64}
cluster: {workers: 1, cpus_per_worker: 1}
sweep:
  searcher: grid
  scheduler: none
  trials: 6
  retries: 1
  space:
    train.loss: {grid: [cross_entropy, "own_steps:raising_loss"]}
    optim.learning_rate: {grid: [0.001, 0.01, 0.03]}
"""


def _sweep(home, *more):
    return Command.start(home, "sweep", "config.yaml", *more)


def _trials(home, name="search"):
    where = home / "runs" / name / "trials.jsonl"
    lines = where.read_text().splitlines() if where.exists() else []
    return {trial["id"]: trial for trial in map(json.loads, lines)}


def numbers(home, name="search"):
    """Everything of the trials that does not depend on how fast they ran."""
    kept = ("id", "role", "params", "seed", "state", "best")
    losses = ("epoch", "step", "loss", "learning_rate", "accuracy", "log_loss")
    return {
        trial_id: {key: trial[key] for key in kept}
        | {"curve": [{key: line[key] for key in losses} for line in trial["curve"]]}
        for trial_id, trial in _trials(home, name).items()
    }


def _finish(command, home):
    try:
        assert command.wait() == 0, command.err
        assert_tidy(command, home / "runs" / "search")
    finally:
        command.clean_up()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("undisturbed"), CONFIG)
    _finish(_sweep(home), home)
    return home


def test_a_sweep_packages_its_best_trial_and_names_those_that_failed(undisturbed):
    trials, folder = _trials(undisturbed), undisturbed / "runs" / "search"
    whole, broken = ("0000", "0001", "0002"), ("0003", "0004", "0005")
    assert {name: trial["state"] for name, trial in trials.items()} == {
        **dict.fromkeys((*whole, "winner"), "finished"),
        **dict.fromkeys(broken, "failed"),
    }
    assert all("no such loss" in trials[name]["error"] and trials[name]["failures"] == 2 for name in broken)
    best = max(trials[name]["best"]["metrics"]["accuracy"] for name in whole)
    outcome = result(folder)
    assert (outcome["status"], outcome["trials"]) == ("finished", 6)
    assert trials[outcome["best_trial"]]["best"]["metrics"]["accuracy"] == best
    assert (folder / "package" / "model.keras").exists()
    assert "Recommendation" in (folder / "report.html").read_text()


def test_each_slot_runs_its_trials_in_the_process_it_started_with(undisturbed):
    logs = (undisturbed / "runs" / "search" / "trials").glob("*/log.jsonl")
    events = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    pids = {event["trial"]: event["fields"]["pid"] for event in events if event["event"] == "worker_started"}
    # Two CPUs. Ray Tune would keep one process where no trial waits yet, and give it all trials that are short.
    assert len(pids) == 7
    assert pids["0000"] != pids["0001"]
    assert set(pids.values()) == {pids["0000"], pids["0001"]}


def test_an_extension_that_is_refused_leaves_the_sweep_as_it_was(tmp_path, undisturbed):
    home = Path(shutil.copytree(undisturbed, tmp_path / "home"))
    folder = home / "runs" / "search"
    kept = {name: (folder / name).read_bytes() for name in ("config.yaml", "result.json", "trials.jsonl")}
    # A network without a backbone has no block that could be frozen.
    wrong = CONFIG.replace("  space:\n", "  space:\n    freeze.depth: {grid: [0, 7]}\n")
    (home / "config.yaml").write_text(wrong)
    command = _sweep(home, "--trials", "+2")
    try:
        assert command.wait() == 2, command.err
        assert command.left() == []
    finally:
        command.clean_up()
    assert "7" in command.err[command.err.index("error: ") :]
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert not (folder / "ray").exists()


def test_after_a_dead_trial_and_a_dead_driver_the_trials_are_the_same(tmp_path, undisturbed):
    home = make_home(tmp_path, CONFIG)
    command = _sweep(home)
    try:
        command.wait_for_step(20)
        os.kill(steps_log(home)[-1][2], signal.SIGKILL)
        command.wait_until(lambda: any(trial["state"] == "finished" for trial in _trials(home).values()))
        command.look()
        command.process.kill()
        command.process.wait()
        assert command.left(but=RAY_AGENTS) == []
    finally:
        command.clean_up()
    finished = {name: trial for name, trial in _trials(home).items() if trial["state"] == "finished"}
    done = len(steps_log(home))
    _finish(_sweep(home), home)
    assert numbers(home) == numbers(undisturbed)
    assert result(home / "runs" / "search")["final"] == result(undisturbed / "runs" / "search")["final"]
    for name, trial in finished.items():
        # The winner's run measures the latency of all, at the end.
        assert {**_trials(home)[name], "latency_ms": None} == trial
    # A finished trial takes no step again; 52 make one.
    assert len(steps_log(home)) - done <= 3 * 52 - 52 * len(finished)


@pytest.mark.full
def test_a_distributed_trial_has_the_losses_of_a_light_one(tmp_path, undisturbed):
    home = make_home(tmp_path, CONFIG)
    more = ("cluster.workers=2", "sweep.trial=distributed", "sweep.trials=1")
    _finish(_sweep(home, *(word for setting in more for word in ("--set", setting))), home)
    light, distributed = (trace(place / "runs" / "search" / "trials" / "0000") for place in (undisturbed, home))
    assert [step for step, _ in light] == [step for step, _ in distributed]
    ours, theirs = (np.array([loss for _, loss in each]) for each in (distributed, light))
    print(f"largest relative difference: {np.max(np.abs(ours / theirs - 1)):.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_processes_of_an_embedded_ray_keep_the_memory_that_they_free(monkeypatch):
    from rayft.distributed.allocator import allocator_environment
    from rayft.distributed.cluster import connect

    import ray  # isort: skip

    wanted = allocator_environment(len(os.sched_getaffinity(0)))
    for name in wanted:
        # Whoever runs the tests may have set one.
        monkeypatch.delenv(name, raising=False)
    with connect(ClusterConfig()):
        assert not wanted.keys() & os.environ.keys()
        theirs = ray.get(ray.remote(lambda: dict(os.environ)).remote())
    assert {name: theirs.get(name) for name in wanted} == wanted


def test_a_placement_group_of_a_dead_actor_is_reaped():
    # Ray reads the settings of rayft.distributed on its first import.
    from rayft.distributed.cluster import connect
    from rayft.distributed.sweep.reap import reap_placement_groups

    import ray  # isort: skip

    with connect(ClusterConfig()):
        cpus = ray.cluster_resources()["CPU"]

        @ray.remote(num_cpus=0)
        class Owner:
            def reserve(self):
                group = ray.util.placement_group([{"CPU": cpus}])
                ray.get(group.ready())

        owner = Owner.remote()
        ray.get(owner.reserve.remote())
        assert reap_placement_groups() == 0
        ray.kill(owner)
        end = time.monotonic() + 30
        while reap_placement_groups() == 0:
            assert time.monotonic() < end
            time.sleep(0.2)
        # The CPUs are free again.
        assert ray.get(ray.remote(lambda: 1).options(num_cpus=cpus).remote(), timeout=60) == 1
        states = [group["state"] for group in ray.util.placement_group_table().values()]
        assert states == ["REMOVED"]
