"""Sweeps on a prefix cache whose builder, driver or disk gives out end as an undisturbed one does."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import RAY_AGENTS, Command, assert_tidy, make_home, result
from test_sweep import numbers

CONFIG = """
name: search
data: {source: data, global_batch_size: 16, image_size: 128}
model: {backbone: efficientnet_lite0, weights: none}
train: {epochs: 3}
prefix_cache: on
cluster: {workers: 1, cpus_per_worker: 1}
sweep:
  searcher: grid
  scheduler: none
  retries: 3
  space: {optim.learning_rate: {grid: [0.001, 0.003, 0.01, 0.03]}}
"""

# Prints each share of the pass that the driver of a sweep was told.
WATCH = """
import json, sys
from rayft.config import load_config
from rayft.distributed.sweep.run import sweep
shares = []
sweep(load_config("config.yaml", tuple(sys.argv[1:])), on_standing=lambda standing: shares.append(standing.share))
print(json.dumps([share for share in shares if share is not None]))
"""

pytestmark = [pytest.mark.full, pytest.mark.timeout(3000)]


def _start(home, *more):
    return Command.start(home, "sweep", "config.yaml", *more)


def _finish(command, home, name="search"):
    try:
        assert command.wait() == 0, command.err
        assert_tidy(command, home / "runs" / name)
    finally:
        command.clean_up()
    return command


def _caches(home):
    return sorted((home / "cache" / "prefix").glob("*"))


def _shards(home):
    return sorted((home / "cache" / "prefix").glob("*/*.arrow"))


def _is_half_built(home):
    return len(_shards(home)) >= 2 and not list((home / "cache" / "prefix").glob("*/complete.json"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("undisturbed"), CONFIG)
    _finish(_start(home), home)
    assert {trial["state"] for trial in numbers(home).values()} == {"finished"}
    return home


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path, CONFIG)


def _assert_same(home, undisturbed, name="search"):
    assert numbers(home, name) == numbers(undisturbed)
    assert result(home / "runs" / name)["final"] == result(undisturbed / "runs" / "search")["final"]
    # One copy of the cache, and of each of its shards.
    assert [path.name for path in _caches(home)] == [path.name for path in _caches(undisturbed)]
    assert [path.name for path in _shards(home)] == [path.name for path in _shards(undisturbed)]
    assert list((home / "cache").rglob("*.tmp")) == []


def test_builders_killed_half_way_are_replaced(home, undisturbed):
    # What is said of trials is not said of builders.
    (home / "config.yaml").write_text(CONFIG.replace("retries: 3", "retries: 0"))
    command = _start(home)
    try:
        command.wait_until(lambda: _is_half_built(home))
        command.look()
        killed = command.kill("ray::ResourceTrainable")
        assert killed
        print(f"\nkilled {killed} builders at {len(_shards(home))} shards")
    finally:
        if command.process.poll() is not None:
            command.clean_up()
    _finish(command, home)
    _assert_same(home, undisturbed)


def test_a_driver_killed_at_three_random_moments_goes_on_with_the_same_command(home, undisturbed):
    def progress(home):
        return len(_shards(home)) + sum(len(trial["curve"]) for trial in numbers(home).values())

    seed, all_of_it = random.randrange(10**6), progress(undisturbed)
    for moment in sorted(random.Random(seed).sample(range(1, all_of_it - 3), 3)):
        command = _start(home)
        try:
            command.wait_until(lambda moment=moment: progress(home) >= moment)
            command.look()
            assert command.process.poll() is None, command.err
            command.process.kill()
            command.process.wait()
            states = sorted(trial["state"] for trial in numbers(home).values())
            print(f"\nseed {seed}, {moment} of {all_of_it}: killed at {len(_shards(home))} shards, trials {states}")
            assert command.left(but=RAY_AGENTS) == []
        finally:
            command.clean_up()
    _finish(_start(home), home)
    _assert_same(home, undisturbed)


def test_a_signal_while_the_cache_is_built_leaves_nothing_behind(home, undisturbed):
    moments = (
        # Its processes begin to import TensorFlow.
        (signal.SIGTERM, lambda command: "computing the frozen prefix" in command.err),
        (signal.SIGINT, lambda command: _is_half_built(home)),
        (signal.SIGTERM, lambda command: _is_half_built(home)),
    )
    for number, is_there in moments:
        command = _start(home)
        try:
            command.wait_until(lambda is_there=is_there, command=command: is_there(command))
            command.ask_to_stop(number)
            assert command.wait() == 130, command.err
            assert_tidy(command, home / "runs" / "search")
        finally:
            command.clean_up()
        assert "Traceback" not in command.err
        assert "SIGTERM handler" not in command.err, "Ray Tune's thread has started a second Ray"
        # So that the second signal meets a cache in the making as well.
        for shard in _shards(home)[1:]:
            shard.unlink()
    _finish(_start(home), home)
    _assert_same(home, undisturbed)


@pytest.mark.parametrize("kind", [[], ["cluster.workers=2"]], ids=["light", "distributed"])
def test_the_pass_tells_how_far_it_is(home, kind):
    done = subprocess.run(
        [sys.executable, "-c", WATCH, "data.image_size=224", "sweep.trials=1", *kind],
        cwd=home,
        env={**os.environ, "HOME": str(home / "home"), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    shares = json.loads(done.stdout.splitlines()[-1])
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert any(0 < share < 1 for share in shares), set(shares)


def test_two_sweeps_that_need_one_cache_build_it_together(home, undisturbed):
    other = home / "config2.yaml"
    other.write_text(CONFIG.replace("name: search", "name: other"))
    first = _start(home)
    second = Command.start(home, "sweep", other.name, suffix="2")
    try:
        for command, name in ((first, "search"), (second, "other")):
            assert command.wait() == 0, command.err
            assert_tidy(command, home / "runs" / name)
    finally:
        first.clean_up()
        second.clean_up()
    for name in ("search", "other"):
        _assert_same(home, undisturbed, name)


def test_a_damaged_shard_is_named_and_computed_again(home, undisturbed):
    shutil.copytree(undisturbed / "cache", home / "cache")
    key = min(_caches(home), key=lambda path: path.stat().st_size).name
    flipped, truncated = sorted((home / "cache" / "prefix" / key).glob("*.arrow"))[1:3]
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(bytes(content))
    os.truncate(truncated, truncated.stat().st_size - 1)
    command = _finish(_start(home), home)
    said = command.err + "".join(result(home / "runs" / "search")["notices"])
    assert f"{flipped} holds other bytes than were written; it is computed again" in said
    assert f"{truncated} has {truncated.stat().st_size - 1} bytes instead of {truncated.stat().st_size}" in said
    _assert_same(home, undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], capture_output=True).returncode != 0:
        pytest.skip("only root mounts a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def _fill(place):
    with (place / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


@pytest.mark.parametrize("moment", ["building", "searching"])
def test_a_full_disk_is_named_and_the_same_command_goes_on_once_there_is_room(moment, small_disk, undisturbed):
    home = make_home(small_disk, CONFIG)

    def is_time():
        searching = any(trial["curve"] for trial in numbers(home).values())
        return _is_half_built(home) if moment == "building" else searching

    command = _start(home)
    try:
        command.wait_until(is_time)
        _fill(small_disk)
        assert command.wait() in (1, 2)
        (small_disk / "filler").unlink()
        assert command.left() == []
    finally:
        command.clean_up()
    print(f"\n{command.err}")
    error = command.err[command.err.index("error: ") :]
    assert "Traceback" not in command.err
    assert str(_caches(home)[0] if moment == "building" else home / "runs" / "search") in error
    assert len(error.splitlines()) == 2
    _finish(_start(home), home)
    _assert_same(home, undisturbed)
