"""`rayft verify` passes on the built-in step, and catches steps that depend on the number of workers."""

import json
import os
import signal
import time

import keras
import pytest
from running import Command, make_home

CONFIG = """
name: run
data: {source: data, image_size: 16}
model: {backbone: tiny.keras, pooling: avg, dropout: 0.2}
freeze: {depth: 1}
cluster: {cpus_per_worker: 1}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("verify"), CONFIG)
    image = x = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    for number in range(2):
        x = keras.layers.Conv2D(4, 3, name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{number}")(x)
        x = keras.layers.ReLU(name=f"relu{number}")(x)
    keras.Model(image, x).save(home / "tiny.keras")
    return home


def _verify(home, *options):
    started = time.monotonic()
    command = Command.start(home, "verify", "config.yaml", "--json", *options)
    try:
        command.wait()
        assert command.left() == []
    finally:
        command.clean_up()
    assert "Traceback" not in command.err
    assert not list((home / "runs").iterdir())
    print(f"\nverify {options}: {time.monotonic() - started:.0f} s")
    report = json.loads(command.out)
    failed = {
        check["name"]
        for check in report["checks"]
        if check["tolerance"] is not None and not check["measured"] <= check["tolerance"]
    }
    return command.process.returncode, report, failed


@pytest.mark.parametrize("counts", ["1,3", pytest.param("1,2,3", marks=pytest.mark.full)])
def test_the_built_in_step_passes(counts, home):
    code, report, failed = _verify(home, "--workers", counts)
    assert (code, failed, report["passed"]) == (0, set(), True)
    names = [check["name"] for check in report["checks"]]
    assert "float64, BatchNorm trainable: losses" in names
    assert "float32, unfrozen: first gradient" in names
    first, *others = counts.split(",")
    pairs = {f"{first} / {other}" for other in others}
    assert {check["workers"] for check in report["checks"]} == {*pairs, counts.replace(",", ", ")}


@pytest.mark.parametrize(
    "step",
    ["clipped_before_the_sum", pytest.param("without_partial_slices", marks=pytest.mark.full)],
)
def test_a_step_that_depends_on_the_number_of_workers_fails(step, home):
    code, report, failed = _verify(home, "--workers", "1,2", "--set", f"train.step=own_steps:{step}")
    print(failed)
    assert code == 1
    assert not report["passed"]
    assert "float64, BatchNorm frozen: losses" in failed


@pytest.mark.full
@pytest.mark.parametrize("whom", ["the driver", "every process"])
def test_a_signal_ends_it_in_words(whom, home):
    command = Command.start(home, "verify", "config.yaml", "--workers", "1,2")
    try:
        command.wait_until(lambda: "1 workers: float" in command.err)
        if whom == "the driver":
            command.process.send_signal(signal.SIGTERM)
        else:
            os.killpg(command.process.pid, signal.SIGTERM)
        assert command.wait() == 130, command.err
        assert command.left() == []
    finally:
        command.clean_up()
    assert command.err.splitlines()[-2:] == [
        "error: The proof was broken off.",
        "fix: Run the same command again; it starts anew.",
    ]
    assert "Traceback" not in command.err
    assert not list((home / "runs").iterdir())
