"""A session in a process that ran others before computes what it computes in a fresh one, bit for bit."""

import json

import pytest
import tensorflow as tf
from test_prefix_cache import backbone, dataset_of, place
from test_prefix_cache import config_of as plain_config

from rayft.config import parse_config
from rayft.learn.session import run_session
from rayft.learn.workshop import Workshop

__all__ = ["backbone"]

# What a step may change beside the weights: moments, averages, statistics of a BatchNorm, a plateau's factor.
RICH = {
    "optim": {
        "name": "nadam",
        "learning_rate": 0.01,
        "schedule": "plateau",
        "schedule_options": {"patience": 1, "gamma": 0.3},
        "clip_norm": 1.0,
    },
    "train": {"epochs": 4, "ema": {"decay": 0.9}},
    "freeze": {"depth": 2, "batch_norm": "trainable"},
}


def config_of(backbone, storage, name, **changes):
    tree = plain_config(backbone, storage, **changes).model_dump()
    return parse_config({**tree, "name": name})


def _trace(storage, name="trial"):
    """Every number of a run's journal but its speed."""
    lines = (storage / "runs" / name / "metrics.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    return [{key: value for key, value in line.items() if key != "examples_per_s"} for line in kept]


def _run(config, dataset, workshop=None, stop_after=None):
    def observe(state):
        return stop_after is not None and state.get("step", 0) >= stop_after

    run_session(config, dataset, place(), observe, tf.distribute.get_strategy(), workshop=workshop)


def _changed(tree, **changes):
    return {name: {**tree.get(name, {}), **changes.get(name, {})} for name in {*tree, *changes}}


@pytest.mark.parametrize("cache", ["on", "off"])
def test_the_third_session_of_a_process_has_the_losses_of_a_first_one(backbone, tmp_path, cache):
    dataset, workshop = dataset_of(), Workshop()
    settings = {**RICH, "prefix_cache": {"mode": cache}}
    _run(config_of(backbone, tmp_path / "fresh", "trial", **settings), dataset)
    for name, other, stop_after in (
        ("faster", {"optim": {"learning_rate": 0.3}}, None),
        ("deeper", {"freeze": {"depth": 1}}, None),
        ("broken-off", {}, 9),
    ):
        changed = _changed(settings, **other)
        _run(config_of(backbone, tmp_path / "used", name, **changed), dataset, workshop, stop_after)
        workshop.tidy()
    _run(config_of(backbone, tmp_path / "used", "trial", **settings), dataset, workshop)
    assert _trace(tmp_path / "used") == _trace(tmp_path / "fresh")
    faster = _trace(tmp_path / "used", "faster")
    assert faster != _trace(tmp_path / "fresh")
    # A rate of its own, although the steps were compiled once.
    assert faster[0]["learning_rate"] == pytest.approx(0.3)
    _run(
        config_of(backbone, tmp_path / "alone", "faster", **_changed(settings, optim={"learning_rate": 0.3})),
        dataset,
    )
    assert faster == _trace(tmp_path / "alone", "faster")


def test_steps_are_compiled_once_for_several_rates(backbone, tmp_path, monkeypatch):
    dataset, workshop, built = dataset_of(), Workshop(), []
    import rayft.learn.training as training
    import rayft.learn.workshop as module

    for where, name in ((training, "compile_steps"), (module, "build_unfrozen")):
        original = getattr(where, name)

        def counted(*arguments, original=original, what=name):
            built.append(what)
            return original(*arguments)

        monkeypatch.setattr(where, name, counted)
    for number, rate in enumerate((0.01, 0.02, 0.03)):
        settings = _changed(RICH, optim={"learning_rate": rate}, freeze={"depth": 1 + number % 2})
        _run(config_of(backbone, tmp_path, f"trial-{number}", **settings), dataset, workshop)
        workshop.tidy()
    assert sorted(built) == ["build_unfrozen", "compile_steps", "compile_steps"]


def test_a_resumed_session_goes_on_in_a_used_process(backbone, tmp_path):
    dataset, workshop = dataset_of(), Workshop()
    config = config_of(backbone, tmp_path / "fresh", "trial", **RICH)
    _run(config, dataset)
    own = config_of(backbone, tmp_path / "cut", "trial", **RICH)
    _run(own, dataset, workshop, stop_after=9)
    _run(
        config_of(backbone, tmp_path / "cut", "other", **_changed(RICH, optim={"learning_rate": 0.1})),
        dataset,
        workshop,
    )
    _run(own, dataset, workshop)
    assert _trace(tmp_path / "cut") == _trace(tmp_path / "fresh")


def test_a_damaged_shard_is_not_read_by_the_next_session(backbone, tmp_path):
    dataset, workshop = dataset_of(), Workshop()
    _run(config_of(backbone, tmp_path / "fresh", "trial", **RICH), dataset)
    _run(config_of(backbone, tmp_path / "used", "first", **RICH), dataset, workshop)
    for shard in (tmp_path / "used" / "cache" / "prefix").glob("*/*.arrow"):
        content = bytearray(shard.read_bytes())
        # The numbers of the activations lie in the middle.
        content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
        shard.write_bytes(bytes(content))
    _run(config_of(backbone, tmp_path / "used", "trial", **RICH), dataset, workshop)
    assert _trace(tmp_path / "used") == _trace(tmp_path / "fresh")
