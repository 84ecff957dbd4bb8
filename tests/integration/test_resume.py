"""A run that was broken off ends with the losses and weights of an undisturbed one, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from running import RAY_AGENTS, Command, assert_tidy, make_home, result, state, steps_log, trace, worker_of

ROOT = Path(__file__).parents[2]
WATCHED = "train.step=own_steps:watched"
# 13 steps make an epoch, 5 a checkpoint: these lie in the middle of both.
FIRST, SECOND = 22, 48


def _train(home):
    return Command.start(home, "train", "config.yaml", "--set", WATCHED)


def _assert_same(home, undisturbed):
    folder = home / "runs" / "run"
    assert trace(folder) == trace(undisturbed)
    for ours, theirs in zip(state(folder), state(undisturbed), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert result(folder)["final"] == result(undisturbed)["final"]


def _say(what, broken_at, home):
    lines = steps_log(home)
    before = [line for line in lines if line[0] <= broken_at]
    # A survivor still writes a step before it learns of the death.
    after = [line for line in lines if line[0] > broken_at and line[2] not in {pid for _, _, pid, _ in before}]
    new = [at for at, *_, step in after if step > max(step for *_, step in before)]
    # A fast run may have been past the step that was waited for when it was broken off.
    first_new = f"{new[0] - broken_at:.1f} s" if new else "not reached yet"
    print(f"\n{what}: first step again after {after[0][0] - broken_at:.1f} s, new step {first_new}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("undisturbed"))
    _finish(home)
    folder = home / "runs" / "run"
    assert [step for step, _ in trace(folder)] == list(range(1, 79))
    assert result(folder)["restarts"] == 0
    return folder


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path)


def test_workers_killed_in_mid_epoch_are_replaced(home, undisturbed):
    command = _train(home)
    try:
        for rank, at_step in ((0, FIRST), (1, SECOND)):
            since = len(steps_log(home))
            command.wait_for_step(at_step, since)
            lines, killed_at = len(steps_log(home)), time.time()
            os.kill(worker_of(home, rank), signal.SIGKILL)
            command.wait_until(lambda lines=lines: len(steps_log(home)) > lines + 40)
            _say(f"SIGKILL of rank {rank}", killed_at, home)
        assert command.wait() == 0, command.err
        assert_tidy(command, home / "runs" / "run")
    finally:
        command.clean_up()
    assert result(home / "runs" / "run")["restarts"] == 2
    _assert_same(home, undisturbed)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_a_run_broken_off_twice_goes_on_with_the_same_command(number, home, undisturbed):
    _kill_the_driver(home, FIRST)
    _stop(home, number, SECOND, undisturbed)
    started_at = time.time()
    _finish(home)
    _say(f"{number.name}, same command again", started_at, home)
    _assert_same(home, undisturbed)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_signal_to_every_process_at_once_keeps_the_last_checkpoint(home, undisturbed):
    command = _train(home)
    try:
        command.wait_for_step(FIRST)
        # As `timeout` and batch systems do: driver, workers and Ray's own processes.
        os.killpg(command.process.pid, signal.SIGTERM)
        assert command.wait() == 130, command.err
        assert "Traceback" not in command.err
        assert_tidy(command, home / "runs" / "run")
    finally:
        command.clean_up()
    print(command.err)
    assert result(home / "runs" / "run")["status"] == "interrupted"
    assert len(list((home / "runs" / "run" / "checkpoints").iterdir())) >= 1
    _finish(home)
    _assert_same(home, undisturbed)


@pytest.mark.full
def test_a_signal_while_ray_starts_ends_the_command_in_words(home):
    command = _train(home)
    try:
        command.wait_until(lambda: "starting Ray" in command.err)
        time.sleep(0.5)
        command.process.send_signal(signal.SIGTERM)
        assert command.wait() == 130, command.err
        assert command.left() == []
    finally:
        command.clean_up()
    assert "error: Ended by SIGTERM" in command.err
    assert "Traceback" not in command.err
    assert not (home / "runs" / "run").exists()


SIGNAL_AT_FORK = """
import os
import signal

from rayft.cli import main

# A shell lets what it starts in the background ignore SIGINT, and so would this test's command.
signal.signal(signal.SIGINT, signal.default_int_handler)
pending = [True]
os.register_at_fork(after_in_parent=lambda: pending and pending.pop() and os.kill(os.getpid(), signal.{name}))
raise SystemExit(main(["train", "config.yaml"]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_whose_exception_is_lost_at_a_fork_ends_the_command(name, home):
    script = home / "signal_at_fork.py"
    script.write_text(SIGNAL_AT_FORK.format(name=name))
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=home,
        env={**os.environ, "HOME": str(home / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Exception ignored in" in done.stderr
    assert f"error: Ended by {name} while Ray started." in done.stderr
    assert done.returncode == 130
    assert not (home / "runs" / "run").exists()


def _kill_the_driver(home, at_step):
    command = _train(home)
    try:
        command.wait_for_step(at_step)
        command.look()
        command.process.kill()
        command.process.wait()
        killed_at = time.time()
        assert command.left(but=RAY_AGENTS) == []
        print(f"\nSIGKILL of the driver: workers and Ray ended within {time.time() - killed_at:.1f} s")
        assert command.left(within_s=90) == []
    finally:
        command.clean_up()


def _stop(home, number, at_step, undisturbed):
    started_at = time.time()
    before = len(steps_log(home))
    command = _train(home)
    try:
        command.wait_for_step(at_step, before)
        _say(f"the same command before {number.name}", started_at, home)
        asked_at = time.time()
        command.ask_to_stop(number)
        assert command.wait() == 130, command.err
        print(f"\n{number.name}: ended within {time.time() - asked_at:.1f} s")
        assert "Traceback" not in command.err
        assert_tidy(command, home / "runs" / "run")
    finally:
        command.clean_up()
    assert result(home / "runs" / "run")["status"] == "interrupted"
    done = trace(home / "runs" / "run")
    assert done == trace(undisturbed)[: len(done)]
    # A checkpoint at the very step: none is done again. The workers of the run before may have come further.
    assert len(done) == max(step for *_, step in steps_log(home)[before:]) + 1


def _finish(home):
    command = _train(home)
    try:
        assert command.wait() == 0, command.err
        assert_tidy(command, home / "runs" / "run")
    finally:
        command.clean_up()
