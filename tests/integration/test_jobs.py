"""A real head with token authentication: runs go there as jobs, are watched, stopped at a checkpoint, and go on."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from head_node import ray_head
from running import make_home, result, state, steps_log, trace

from rayft.cli import main

CONFIG = """
name: run
data: {source: data, global_batch_size: 16, image_size: 16}
model: {backbone: none, weights: none, pooling: flatten, hidden: [16], dropout: 0.2}
freeze: {depth: 0}
train: {epochs: 6, checkpoint_every_steps: 5, log_every_steps: 1, step: "own_steps:watched"}
cluster: {workers: 1, cpus_per_worker: 1}
"""
PLANTED = "planted-secret-of-s3"
PATIENCE_S = 240


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with ray_head(tmp_path_factory.mktemp("head"), AWS_SECRET_ACCESS_KEY=PLANTED) as head:
        yield head


@pytest.fixture
def home(tmp_path, monkeypatch, head):
    home = make_home(tmp_path / "client", CONFIG)
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home / "home"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.url)
    return home


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def wait_for_step(home, step, since=0):
    wait_for(lambda: any(line[3] >= step for line in steps_log(home)[since:]))


def said(capsys):
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "Traceback" not in text, text
    assert "gcs://" not in shown.err, "how Ray ships a job is none of the user's business"
    return text


def files_with(secret, *folders):
    found = []
    for folder in folders:
        for path in Path(folder).rglob("*"):
            if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
                found.append(str(path))
    return found


def test_a_job_runs_stops_at_a_checkpoint_and_goes_on(head, home, capsys, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    assert main(["submit", "config.yaml"]) == 2
    assert "asks for a token, and none was given" in said(capsys)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert main(["submit", "config.yaml"]) == 2
    assert "refuses the token of RAY_AUTH_TOKEN" in said(capsys)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    assert main(["submit", "config.yaml", "--set", "cluster.workers=3"]) == 2
    assert "needs 3 CPU; the cluster has 2" in said(capsys)
    assert main(["jobs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [], "what was refused never queued"

    assert main(["submit", "config.yaml"]) == 0
    assert "submitted run as job rayft-run-1" in said(capsys)
    wait_for_step(home, 20)
    assert main(["submit", "config.yaml"]) == 0
    assert "run is running already, as job rayft-run-1; nothing was submitted" in said(capsys)
    assert main(["submit", "config.yaml", "--set", "seed=1"]) == 2
    assert "with other settings" in said(capsys)
    assert main(["status"]) == 0
    status = said(capsys)
    assert "run  train  running for" in status
    assert "1 workers on" in status
    assert str(home / "runs" / "run") in status
    # A step that takes longer than the 3 s that Ray gives by itself.
    (home / "pace.txt").write_text("5")
    assert main(["jobs", "stop", "run"]) == 0
    stopped = said(capsys)
    assert "run is stopped" in stopped
    assert "the checkpoint there is kept" in stopped
    (home / "pace.txt").unlink()
    last = max(step for *_, step in steps_log(home))
    assert result(home / "runs" / "run")["status"] == "interrupted"
    # At the very step: none is done again.
    assert trace(home / "runs" / "run")[-1][0] == last + 1

    before = len(steps_log(home))
    assert main(["submit", "config.yaml", "--follow"]) == 0
    followed = said(capsys)
    assert "submitted run again as job rayft-run-2; it goes on where it stopped" in followed
    assert "run      run: finished" in followed
    assert steps_log(home)[before][3] == last + 1
    assert [step for step, _ in trace(home / "runs" / "run")] == list(range(1, 79))
    assert main(["submit", "config.yaml"]) == 0
    assert "run had finished before, as job rayft-run-2; nothing was submitted" in said(capsys)
    assert main(["jobs", "show", "run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["attempt"], shown["progress"]["step"]) == ("finished", 2, 78)
    assert main(["jobs", "logs", "nobody"]) == 2
    assert "knows no job of the run 'nobody'; it knows run" in said(capsys)

    # Neither run folder, package, job metadata, shipped code nor Ray's logs hold a secret.
    assert main(["jobs", "list", "--json"]) == 0
    assert PLANTED not in capsys.readouterr().out
    for secret in (PLANTED, head.token):
        assert files_with(secret, home / "runs", head.folder) == []
    assert files_with(PLANTED, home) == []


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_a_stopped_and_resumed_job_ends_as_an_undisturbed_one(head, home, capsys):
    assert main(["submit", "config.yaml", "--name", "whole", "--follow"]) == 0
    before = len(steps_log(home))
    assert main(["submit", "config.yaml", "--name", "broken"]) == 0
    wait_for_step(home, 30, before)
    assert main(["jobs", "stop", "broken"]) == 0
    assert main(["submit", "config.yaml", "--name", "broken", "--follow"]) == 0
    said(capsys)
    whole, broken = home / "runs" / "whole", home / "runs" / "broken"
    assert trace(whole) == trace(broken)
    for ours, theirs in zip(state(broken), state(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.full
def test_a_run_that_fails_ends_with_its_own_code_and_words(head, home, capsys):
    assert main(["submit", "config.yaml", "--name", "bad", "--set", "data.source=nothing", "--follow"]) == 2
    text = said(capsys)
    assert "nothing" in text
    assert "error: " in text
    assert "bad is failed" in text


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["pip", "uv"])
def test_packages_are_installed_for_a_job(kind, head, home, capsys):
    assert main(["submit", "config.yaml", "--name", kind, "--env", kind, "--set", "train.epochs=1", "--follow"]) == 0
    assert result(home / "runs" / kind)["status"] == "finished"


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_other_commands_run_as_jobs(head, home, capsys):
    assert main(["submit", "config.yaml", "--name", "one", "--set", "train.epochs=1", "--follow"]) == 0
    assert main(["submit", "--task", "evaluate", "runs/one", "data", "--follow", "--", "--json"]) == 0
    assert '"accuracy"' in said(capsys)
    picture = os.fspath(next((home / "data").rglob("*.png")))
    assert main(["submit", "--task", "predict", "runs/one", picture, "--follow", "--", "--json"]) == 0
    assert '"label"' in said(capsys)
