import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from rayft.config import parse_config
from rayft.errors import StorageError
from rayft.learn import checkpoint
from rayft.learn.checkpoint import Checkpoints, Position, dump_state
from rayft.learn.patience import Patience, Waiting
from rayft.learn.state import state_variables
from rayft.learn.step import Task
from rayft.model.network import build_network
from rayft.storage import Storage

CONFIG = {
    "data": {"source": "x", "image_size": 8},
    "model": {"backbone": "none", "weights": "none", "pooling": "flatten"},
    "freeze": {"depth": 0},
}


def make_task(**changes):
    config = parse_config({**CONFIG, **changes})
    with tf.distribute.get_strategy().scope():
        return Task(config, build_network(config, 3), total_steps=10)


@pytest.fixture
def task():
    return make_task()


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(Storage.open(tmp_path / "checkpoints"), keep=2)


def fill(task, value):
    for variable in state_variables(task):
        variable.assign(np.full(variable.shape, value, variable.dtype))
    task.updater.reload()


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_a_checkpoint_gives_back_position_and_every_variable(task, checkpoints):
    position = Position(2, 30, {"epoch": 1, "step": 15, "metrics": {"accuracy": 0.5}}, (0.1, 1 / 3))
    waiting = Waiting(Patience(0.5, 1), Patience(0.25, 2), plateau_factor=0.1)
    position = replace(position, waiting=waiting, stopped=True)
    fill(task, 3)
    before = dump_state(task)
    checkpoints.save(task, position)
    fill(task, 4)
    assert checkpoints.latest() == position
    checkpoints.restore(task, 30)
    assert dump_state(task) == before


def test_a_restored_task_steps_on_from_the_restored_weights(task, checkpoints):
    fill(task, 3)
    checkpoints.save(task, Position(step=1))
    fill(task, 4)
    checkpoints.restore(task, 1)
    size = sum(int(np.prod(variable.shape)) for variable in task.variables)
    task.updater.apply(tf.zeros([size]), tf.constant(0, tf.int64))
    # Adam with filled moments moves the weights by far less than the 1 between them.
    assert all(np.all(np.abs(variable.numpy() - 3) < 0.1) for variable in task.variables)


def test_a_checkpoint_without_its_commit_is_none(task, checkpoints, tmp_path):
    checkpoints.save(task, Position(step=5))
    checkpoints.save(task, Position(step=10))
    (tmp_path / "checkpoints/step-000000010/position.json").unlink()
    assert checkpoints.latest().step == 5
    assert checkpoints.remove_orphans(5) == ["step-000000010"]
    assert checkpoints.folder.list() == ["step-000000005"]


def test_a_state_that_cannot_be_written_is_never_committed(task, checkpoints, tmp_path):
    # A folder in the place of the state makes its writing fail, as a full disk would.
    (tmp_path / "checkpoints/step-000000005/state.npz").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"state\.npz"):
        checkpoints.save(task, Position(step=5))
    assert checkpoints.steps() == []
    assert checkpoints.latest() is None


@pytest.mark.parametrize(
    "damage", [flip_byte, lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda p: p.unlink()]
)
def test_a_damaged_state_is_passed_over_in_favour_of_the_previous(damage, task, checkpoints, tmp_path):
    for step in (5, 10):
        checkpoints.save(task, Position(step=step))
    damage(tmp_path / "checkpoints/step-000000010/state.npz")
    assert checkpoints.latest().step == 5
    with pytest.raises(StorageError, match="missing or damaged"):
        checkpoints.restore(task, 10)


def test_a_damaged_checkpoint_does_not_push_out_later_good_ones(task, checkpoints, tmp_path):
    one = replace(checkpoints, keep=1)
    one.save(task, Position(step=5))
    replace(one, keep=2).save(task, Position(step=20))
    flip_byte(tmp_path / "checkpoints/step-000000020/state.npz")
    assert one.latest().step == 5
    one.remove_orphans(5)
    one.save(task, Position(step=10))
    assert one.steps() == [10]
    assert one.latest().step == 10


def test_the_latest_and_the_best_are_kept(task, checkpoints):
    best = {"epoch": 1, "step": 10, "metrics": {}}
    checkpoints.save(task, Position(step=5))
    checkpoints.save(task, Position(step=10, best=best))
    for step in (15, 20, 25):
        checkpoints.save(task, Position(step=step, best=best))
    assert checkpoints.steps() == [10, 20, 25]


def test_the_best_of_each_kept_checkpoint_is_kept(task, checkpoints):
    old, new = ({"epoch": 1, "step": step, "metrics": {}} for step in (5, 20))
    for step, best in ((5, old), (10, old), (15, old), (20, new)):
        checkpoints.save(task, Position(step=step, best=best))
    # Were 20 damaged, the run would go on from 15, whose best is 5.
    assert checkpoints.steps() == [5, 15, 20]


def test_other_frozen_weights_are_refused(tmp_path, checkpoints):
    import keras

    def with_backbone(seed):
        keras.utils.set_random_seed(seed)
        image = keras.Input((8, 8, 3))
        keras.Model(image, keras.layers.Conv2D(2, 3)(image)).save(tmp_path / f"{seed}.keras")
        return make_task(model={"backbone": str(tmp_path / f"{seed}.keras")}, freeze={"depth": "all"})

    checkpoints.save(with_backbone(1), Position(step=5))
    checkpoints.restore(with_backbone(1), 5)
    with pytest.raises(StorageError, match="other pretrained weights"):
        checkpoints.restore(with_backbone(2), 5)


def test_a_checkpoint_of_another_network_is_refused(task, checkpoints):
    checkpoints.save(task, Position(step=5))
    other = make_task(model={**CONFIG["model"], "hidden": [4]})
    with pytest.raises(StorageError, match="another network"):
        checkpoints.restore(other, 5)


def test_a_checkpoint_of_another_format_is_refused(task, checkpoints, tmp_path, monkeypatch):
    checkpoints.save(task, Position(step=5))
    where = tmp_path / "checkpoints/step-000000005/position.json"
    where.write_text(json.dumps({**json.loads(where.read_text()), "format": checkpoint.FORMAT + 1}))
    with pytest.raises(StorageError, match="has format 2, not 1"):
        checkpoints.latest()
