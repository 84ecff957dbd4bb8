"""Training through phases: what is frozen, what is carried, and resumption anywhere."""

import numpy as np
import pytest
import tensorflow as tf
from test_learn_step import CLASSES, backbone, dataset_of, make_batch, make_config, weights  # noqa: F401

from rayft.learn.checkpoint import Position, dump_state, load_state
from rayft.learn.loop import Plan
from rayft.learn.optimizer import Updater
from rayft.learn.phased import Phased
from rayft.learn.place import Place
from rayft.learn.training import Training
from rayft.model.network import build_network

SCHEDULE = [{"epoch": 0, "depth": "all"}, {"epoch": 1, "depth": 1}, {"epoch": 2, "depth": 0}]
PLAN = Plan(2, 3, checkpoint_every_steps=1)
BATCHES = [make_batch(step=step, seed=step) for step in range(PLAN.total_steps)]


class Data:
    """Batches in memory, without a validation split."""

    labels = tuple("abc")

    @property
    def dataset(self):
        return self

    def size(self, split):
        return 0

    def train(self, start_step=0):
        return dataset_of(BATCHES).skip(start_step)


def make_training(backbone, **changes):  # noqa: F811
    freeze = {"depth": 0, "schedule": SCHEDULE, "batch_norm": "trainable"}
    config = make_config(backbone, freeze=freeze, **{**changes, "train": {"epochs": 3, **changes.get("train", {})}})
    phased = Phased(config, build_network(config, CLASSES), PLAN, tf.distribute.get_strategy())
    return Training(config, phased, Data(), Place(0, 1, lambda value: value, lambda: None), PLAN)


def train(training):
    """Train to the end; returns the state after each step."""
    return {progress.step: dump_state(training.task) for progress in training.run()}


def restore(training, step, states):
    training.enter_phase_of(step)
    load_state(training.task, states[step])
    training.go_to(Position(step // 2, step))


def test_each_phase_trains_its_blocks_alone(backbone):  # noqa: F811
    training = make_training(backbone)
    model = training.task.network.model
    moved, sizes = [], []
    before = {variable.path: np.array(variable) for variable in model.weights}
    for progress in training.run():
        if progress.step % 2 == 0:
            now = {variable.path: np.array(variable) for variable in model.weights}
            moved.append({path.split("/")[0] for path in now if (now[path] != before[path]).any()})
            sizes.append((len(training.task.variables), training.task.model.prefix is not None))
            before = now
    assert training.task.network.model is model
    head, second, first = {"logits"}, {"block2_conv", "block2_bn"}, {"block1_conv", "block1_bn"}
    assert moved == [head, head | second, head | second | first]
    # Kernel and bias of the head; kernel, gamma and beta of each block. The frozen ones lie in a folded prefix.
    assert sizes == [(2, True), (5, True), (8, False)]


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("lamb", marks=pytest.mark.full)])
def test_a_run_resumed_in_any_phase_ends_bit_for_bit_the_same(backbone, optimizer):  # noqa: F811
    changes = {"optim": {"name": optimizer, "learning_rate": 0.01}, "train": {"ema": {"decay": 0.5}}}
    whole = train(make_training(backbone, **changes))
    resumed = make_training(backbone, **changes)
    # At the end of a phase and within one.
    for cut in (2, 3):
        restore(resumed, cut, whole)
        assert train(resumed)[6] == whole[6]


def test_an_earlier_best_is_restored_with_the_weights_it_had(backbone):  # noqa: F811
    training = make_training(backbone)
    restore(training, 2, train(training))
    untouched = make_training(backbone).task.network.model.weights
    for ours, theirs in zip(training.task.network.model.weights, untouched, strict=True):
        if not ours.path.startswith("logits"):
            np.testing.assert_array_equal(np.array(ours), np.array(theirs))


def test_an_early_network_names_what_stays_frozen_to_the_end(backbone):  # noqa: F811
    schedule = [{"epoch": 0, "depth": "all"}, {"epoch": 1, "depth": 1}]
    network = build_network(make_config(backbone, freeze={"depth": 1, "schedule": schedule}), CLASSES)
    trained = [variable.path for variable in network.model.trainable_variables]
    last = network.in_last_phase()
    assert (network.frozen_depth, last.frozen_depth, last.phase) == (2, 1, 1)
    assert [variable.path for variable in network.model.trainable_variables] == trained
    assert last.boundary_name == network.at(1).boundary_name != network.boundary_name


def test_an_average_goes_on_through_the_phases(backbone):  # noqa: F811
    training = make_training(backbone, train={"swa": {"start_fraction": 0}})
    ends = []
    for progress in training.run():
        if progress.step % 2 == 0:
            ends.append({v.path: np.array(v) for v in training.task.network.model.trainable_variables})
    with training.judged():
        judged = {v.path: np.array(v) for v in training.task.variables}
    first = {v.path: np.array(v) for v in make_training(backbone).task.network.model.weights}
    for path, value in judged.items():
        # What was frozen at the end of an epoch had its initial value there.
        mean = np.mean([end.get(path, first[path]) for end in ends], axis=0)
        np.testing.assert_allclose(value, mean, rtol=1e-5, atol=1e-7)


def test_l2_sp_pulls_to_the_pretrained_weights_in_every_phase(backbone):  # noqa: F811
    changes = {"train": {"l2_sp": {"alpha": 0.1}}, "optim": {"learning_rate": 0.05}}
    states = train(make_training(backbone, **changes))
    again = make_training(backbone, **changes)
    train(again)
    # In the same process the weights have moved by now; the anchors have not.
    restore(again, 2, states)
    assert train(again)[6] == states[6]


@pytest.mark.parametrize("name", ["adam", "adamax", "rmsprop", "lamb", "adafactor"])
def test_what_stays_trainable_goes_on_and_what_joins_starts_fresh(name):
    config = make_config("mobilenetv2", optim={"name": name, "learning_rate": 0.1}).optim
    rng = np.random.default_rng(0)
    old, new = (tf.Variable(rng.normal(size=shape).astype("float32")) for shape in ([3, 2], [4, 2]))
    gradients = [rng.normal(size=[14]).astype("float32") for _ in range(6)]

    def updater(*variables, **options):
        return Updater(config, list(variables), list(variables), 100, **options)

    def step(which, gradient):
        tf.function(which.apply)(tf.constant(gradient), tf.constant(0, tf.int64))

    # By itself, each variable has an optimizer of its own from its own first update on.
    alone_old, alone_new = tf.Variable(old), tf.Variable(new)
    first, second = updater(alone_old), updater(alone_new)
    for index, gradient in enumerate(gradients):
        step(first, gradient[:6])
        if index >= 3:
            step(second, gradient[6:])

    early = updater(old)
    for gradient in gradients[:3]:
        step(early, gradient[:6])
    both = updater(new, old, late=True)
    both.carry_state(early)
    for gradient in gradients[3:]:
        parts = {0: gradient[6:], 1: gradient[:6]}
        step(both, np.concatenate([parts[index] for index in both.order]))
    np.testing.assert_allclose(old, alone_old, rtol=2e-6)
    np.testing.assert_allclose(new, alone_new, rtol=2e-6)
