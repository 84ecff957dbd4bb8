"""Every strategy trains the same network on one worker and on two, and after a resumption.

Plain TensorFlow processes without Ray, which train all cases one after the other.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from running import make_home
from small_backbone import small_backbone

HERE = Path(__file__).parent
SIDE = 16
TOLERANCE = 1e-9
PATIENCE_S = 580
BASE = {
    "data.source": "data",
    "data.global_batch_size": 8,
    "data.image_size": SIDE,
    "data.augment.horizontal_flip": True,
    "model.backbone": "tiny.keras",
    "freeze.depth": 0,
    "freeze.batch_norm": "trainable",
    "optim.learning_rate": 0.01,
    "train.epochs": 3,
    "train.precision": "float64",
}
# What each case changes in BASE; None of them may train what "plain" trains, in losses, weights or metrics.
CASES = {
    "plain": {},
    "first block frozen": {"freeze.depth": 1},
    "one cycle": {"optim.schedule": "one_cycle"},
    "plateau": {
        "optim.schedule": "plateau",
        "optim.schedule_options.patience": 1,
        "optim.schedule_options.min_delta": 10.0,
    },
    "layer decay": {"optim.layer_decay": 0.5, "optim.head_multiplier": 2.0, "optim.weight_decay": 0.01},
    "L2-SP": {"train.l2_sp.alpha": 0.1, "train.l2_sp.beta": 0.01, "optim.clip_norm": 0.5},
    "accumulation": {"train.accumulate_steps": 3},
    "EMA": {"train.ema.decay": 0.9},
    "SWA": {"train.swa.start_fraction": 0.4},
    "SAM": {"optim.sam.rho": 0.05},
    "SAM, accumulation, EMA, Lamb": {
        "optim.name": "lamb",
        "optim.sam.rho": 0.1,
        "train.accumulate_steps": 2,
        "train.ema.decay": 0.99,
        "optim.layer_decay": 0.8,
    },
    "early stopping": {"train.early_stopping.patience": 1, "train.early_stopping.min_delta": 10.0},
    "head first": {"freeze.head_first_epochs": 1},
    "gradual, EMA, L2-SP": {"freeze.gradual": 1, "train.ema.decay": 0.9, "train.l2_sp.alpha": 0.1},
    "head first, Lamb, SWA": {
        "freeze.head_first_epochs": 2,
        "optim.name": "lamb",
        "train.swa.start_fraction": 0.3,
    },
    "LoRA": {"model.adapter.kind": "lora", "model.adapter.rank": 2, "freeze.batch_norm": "frozen"},
    "head first, LoRA in the second block": {
        "model.adapter.kind": "lora",
        "model.adapter.layers": "block2",
        "freeze.batch_norm": "frozen",
        "freeze.head_first_epochs": 1,
    },
    "scale and shift": {"model.adapter.kind": "bias", "model.adapter.norm": True, "freeze.batch_norm": "frozen"},
    "distillation": {"train.distill.teacher": "teacher.keras"},
}
# Those that meet the most code together; the others on demand.
ALWAYS = {
    "plain",
    "layer decay",
    "SAM, accumulation, EMA, Lamb",
    "gradual, EMA, L2-SP",
    "head first, Lamb, SWA",
    "LoRA",
}
NAMES = [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.full) for name in CASES]


def tree_of(changes):
    """Return the nested config of BASE with dotted ``changes``."""
    tree = {}
    for key, value in {**BASE, **changes}.items():
        *sections, field = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[field] = value
    return tree


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("strategies"))
    keras.utils.set_random_seed(3)
    tiny = small_backbone(SIDE, strides=2)
    tiny.save(home / "tiny.keras")
    classes = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(tiny.outputs[0]))
    keras.Model(tiny.inputs[0], classes).save(home / "teacher.keras")
    return home


@pytest.fixture(scope="module")
def traces(home, request):
    """Return the traces of the cases that were asked for, by number of workers."""
    asked = {item.callspec.params["name"] for item in request.session.items if item.path == Path(__file__)}
    cases = {name: tree_of(changes) for name, changes in CASES.items() if name in asked | {"plain"}}
    processes = {}
    try:
        for count in (1, 2):
            (home / str(count)).mkdir()
            addresses = free_addresses(count)
            for rank in range(count):
                processes[count, rank] = start(home, count, rank, addresses, cases)
        for key, process in processes.items():
            out, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, f"rank {key[1]} of {key[0]}:\n{out[-5000:]}"
            print(out.splitlines()[-1])
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return {count: pickle.loads((home / str(count) / "traces.pickle").read_bytes()) for count in (1, 2)}


def start(home, count, rank, addresses, cases):
    setting = {
        "rank": rank,
        "addresses": addresses,
        "folder": str(home / str(count)),
        "side": SIDE,
        "cases": cases,
    }
    path = os.pathsep.join([str(HERE.parent), str(HERE.parents[1])])
    return subprocess.Popen(
        [sys.executable, str(HERE / "strategy_worker.py"), json.dumps(setting)],
        cwd=home,
        env={**os.environ, "HOME": str(home / "home"), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


@pytest.mark.parametrize("name", NAMES)
def test_one_worker_and_two_train_the_same_network(name, traces):
    one, two = traces[1][name], traces[2][name]
    assert len(one.losses) > 1
    np.testing.assert_allclose(two.losses, one.losses, rtol=TOLERANCE)
    assert np.linalg.norm(two.weights - one.weights) <= TOLERANCE * np.linalg.norm(one.weights)
    assert two.metrics["log_loss"] == pytest.approx(one.metrics["log_loss"], rel=TOLERANCE)
    assert two.same_on_all_ranks


@pytest.mark.parametrize("name", NAMES)
def test_a_run_cut_in_the_middle_and_resumed_is_the_uninterrupted_one(name, traces):
    assert traces[1][name].resumed_equal
    assert traces[2][name].resumed_equal


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_strategy_changes_the_run(name, traces):
    plain, trace = traces[1]["plain"], traces[1][name]
    same = (trace.losses, trace.metrics) == (plain.losses, plain.metrics)
    assert not (same and np.array_equal(trace.weights, plain.weights))
