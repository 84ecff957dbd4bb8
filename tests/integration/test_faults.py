"""What goes wrong in a worker reaches the person at the driver: once, in plain words, with the right exit code."""

import re
import time

import pytest
from running import Command, assert_tidy, make_home, result, steps_log, trace

WATCHED = "train.step=own_steps:watched"


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path)


def _run(home, *overrides, fresh=False):
    settings = (word for item in overrides for word in ("--set", item))
    command = Command.start(home, "train", "config.yaml", *settings, *(["--fresh"] if fresh else []))
    try:
        command.wait()
        assert_tidy(command, home / "runs" / "run")
    finally:
        command.clean_up()
    assert "Traceback" not in command.err
    assert "Traceback" not in command.out
    return command


def test_a_stuck_worker_is_replaced_and_says_where_it_stood(home):
    # Long enough for a start of TensorFlow on a busy machine, which is no progress either.
    (home / "fault.txt").write_text("stall 1 22")
    command = _run(home, WATCHED, "train.epochs=3", "cluster.stall_timeout_s=25")
    assert command.process.returncode == 0, command.err
    folder = home / "runs" / "run"
    assert result(folder)["restarts"] >= 1
    assert [step for step, _ in trace(folder)] == list(range(1, 40))
    assert "own_steps.py" in (folder / "stall-rank1.txt").read_text()
    assert "in _note" in (folder / "stall-rank1.txt").read_text()


TYPO = ["model.backbone=resnet5O", "model.pooling=avg", "data.image_size=32"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (TYPO, ["'resnet5O'", "resnet50"]),
        (["train.step=no_such_module:step"], ["train.step", "no_such_module"]),
    ],
)
def test_wrong_input_that_only_a_worker_sees_leaves_no_folder(overrides, parts, home):
    command = _run(home, *overrides)
    assert command.process.returncode == 2, command.err
    for part in parts:
        assert part in command.err
    assert not (home / "runs" / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (TYPO, "'resnet5O'"),
        pytest.param(["cluster.workers=99", "data.global_batch_size=99"], "needs 99 CPU", marks=pytest.mark.full),
        pytest.param(["train.loss=own_steps:raising_loss"], "ValueError: no such loss", marks=pytest.mark.full),
    ],
)
def test_a_fresh_start_that_comes_to_nothing_leaves_the_earlier_run_as_it_was(overrides, part, home):
    folder = home / "runs" / "run"
    (folder / "package").mkdir(parents=True)
    for name in ("config.yaml", "result.json", "package/model.keras"):
        (folder / name).write_text(f"an earlier {name}")
    command = _run(home, *overrides, fresh=True)
    assert command.process.returncode == (1 if "Error" in part else 2), command.err
    assert part in command.err
    assert [path.name for path in (home / "runs").iterdir()] == ["run"]
    left = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert left == {name: f"an earlier {name}" for name in ("config.yaml", "result.json", "package/model.keras")}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        pytest.param(
            [
                "optim.learning_rate=1000",
                "optim.name=sgd",
                "optim.warmup_fraction=0",
                "model.hidden=[16, 16, 16]",
                "model.activation=linear",
                "train.epochs=50",
            ],
            ["epoch", "step", "optim.learning_rate"],
            marks=pytest.mark.full,
        ),
        (["train.loss=own_steps:raising_loss"], ["ValueError: no such loss", "own_steps.py, line"]),
    ],
)
def test_an_error_in_training_ends_the_run_without_a_retry(overrides, parts, home):
    command = _run(home, *overrides)
    assert command.process.returncode == 1, command.err
    for part in parts:
        assert part in command.err
    assert "restarts" not in command.err
    assert result(home / "runs" / "run")["status"] == "failed"


@pytest.mark.full
def test_a_worker_that_always_dies_fails_the_run_after_the_allowed_restarts(home):
    (home / "fault.txt").write_text("die")
    command = _run(home, WATCHED, "cluster.max_failures=1")
    assert command.process.returncode == 1, command.err
    assert "The workers failed 2 times, cluster.max_failures is 1." in command.err
    # Ray's own sentence about the cause depends on what it happens to notice first.
    assert re.search(r"^  rank [01]: \w+", command.err, re.M), command.err
    assert len(command.err[command.err.index("error: ") :].splitlines()) <= 4
    # Two starts; a worker that is late dies with its peer before its first step.
    assert len({pid for _, _, pid, _ in steps_log(home)}) in (2, 3, 4)


@pytest.mark.full
def test_a_finished_run_is_left_alone_until_it_is_started_afresh(home):
    assert _run(home, "train.epochs=1").process.returncode == 0
    folder = home / "runs" / "run"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    first = trace(folder)

    started = time.monotonic()
    command = _run(home, "train.epochs=1")
    assert command.process.returncode == 0
    assert "had finished before; nothing was changed" in command.out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    print(f"\na second run of a finished name: {time.monotonic() - started:.1f} s")

    command = _run(home, "train.epochs=1", "optim.learning_rate=0.01")
    assert command.process.returncode == 2
    assert "optim.learning_rate was 0.0003, now 0.01" in command.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before

    command = Command.start(home, "train", "config.yaml", "--set", "train.epochs=1", "--fresh")
    try:
        assert command.wait() == 0, command.err
        assert_tidy(command, folder)
    finally:
        command.clean_up()
    assert folder.joinpath("result.json").stat().st_mtime_ns != before[folder / "result.json"]
    assert trace(folder) == first
