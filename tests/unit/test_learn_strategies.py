"""Strategies of a step against closed forms, on a network small enough to compute by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_backbone import SIDE, save_small_backbone

from rayft.config import parse_config
from rayft.errors import ConfigError
from rayft.learn.average import EpochAverage, MovingAverage
from rayft.learn.groups import rate_factors
from rayft.learn.optimizer import Updater
from rayft.learn.statistics import make_statistics
from rayft.learn.step import Task, train_step
from rayft.model.network import build_network

CLASSES, BATCH = 3, 6


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_small_backbone(tmp_path_factory.mktemp("model"))


def make_task(backbone, **changes):
    tree = {
        "data": {"source": "none", "global_batch_size": BATCH},
        "model": {"backbone": backbone, "dropout": 0},
        "freeze": {"depth": 0},
        "optim": {"name": "sgd", "learning_rate": 0.125, "schedule": "constant", "warmup_fraction": 0},
        "train": {"precision": "float64"},
    }
    for name, values in changes.items():
        tree[name] = {**tree[name], **values}
    config = parse_config(tree)
    return Task(config, build_network(config, CLASSES), total_steps=10)


def make_batch(real=BATCH, seed=0):
    """A global batch; places past ``real`` are padding."""
    rng = np.random.default_rng(seed)
    return {
        "image": tf.constant(rng.uniform(0, 255, (BATCH, SIDE, SIDE, 3)).astype("float32")),
        "label": tf.constant(rng.integers(0, CLASSES, BATCH).astype("int32")),
        "weight": tf.constant((np.arange(BATCH) < real).astype("float32")),
        "position": tf.constant(np.minimum(np.arange(BATCH), real - 1).astype("int32")),
        "count": tf.constant(float(real)),
        "step": tf.constant(0, tf.int64),
    }


def run(task, *batches):
    step = tf.function(task.run_step)
    return [float(step({**batch, "step": tf.constant(index, tf.int64)})) for index, batch in enumerate(batches)]


def flat(task):
    return np.asarray(task.updater.weights())


def gradient_at(task, batch, weights):
    """Return the flat gradient at other weights, by plain Keras."""
    task.updater.write(tf.constant(weights))
    with tf.GradientTape() as tape:
        logits = task.network.model(batch["image"], training=False)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits))
    parts = tape.gradient(loss, [task.variables[index].value for index in task.updater.order])
    task.updater.write(task.updater.weights())
    return np.concatenate([part.numpy().ravel() for part in parts])


def test_layer_decay_grows_with_the_distance_from_the_head(backbone):
    task = make_task(backbone, optim={"layer_decay": 0.5, "head_multiplier": 3})
    factors = rate_factors(task._config.optim, task.network)
    by_name = {variable.path: factor for variable, factor in zip(task.variables, factors, strict=True)}
    assert by_name["block1_conv/kernel"] == 0.25
    assert by_name["block2_conv/kernel"] == 0.5
    assert by_name["logits/kernel"] == by_name["logits/bias"] == 3
    assert rate_factors(make_task(backbone)._config.optim, task.network) is None


def test_l2_sp_adds_its_closed_form_to_loss_and_gradient(backbone):
    strengths = {"alpha": 0.5, "beta": 0.25}
    task, plain = make_task(backbone, train={"precision": "float64", "l2_sp": strengths}), make_task(backbone)
    start, batches = flat(task), [make_batch(seed=1), make_batch(seed=2)]
    pretrained = np.concatenate(
        [
            np.full(task.variables[index].value.shape.num_elements(), "block" in task.variables[index].path)
            for index in task.updater.order
        ]
    )
    run(task, batches[0])
    # At the pretrained weights nothing pulls but on the new ones.
    first = start - 0.125 * (gradient_at(plain, batches[0], start) + np.where(pretrained, 0, 0.25 * start))
    np.testing.assert_allclose(flat(task), first, rtol=1e-9, atol=1e-12)
    (loss,) = run(task, batches[1])
    plain.updater._weights[0].assign(first)
    plain.updater.write(first)
    (bare,) = run(plain, batches[1])
    penalty = 0.25 * np.sum((first - start)[pretrained] ** 2) + 0.125 * np.sum(first[~pretrained] ** 2)
    assert loss == pytest.approx(bare + penalty, rel=1e-9)
    pull = np.where(pretrained, 0.5 * (first - start), 0.25 * first)
    np.testing.assert_allclose(flat(task), flat(plain) - 0.125 * pull, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("real", [6, 5, 1])
@pytest.mark.parametrize("parts", [2, 3])
def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(parts, real, backbone):
    # Dropout draws by position in the whole batch, and one part at least is padding alone.
    whole, divided = (
        make_task(backbone, model={"dropout": 0.5}, train={"precision": "float64", "accumulate_steps": count})
        for count in (1, parts)
    )
    batch = make_batch(real)
    assert run(divided, batch, batch) == pytest.approx(run(whole, batch, batch), rel=1e-12)
    np.testing.assert_allclose(flat(divided), flat(whole), rtol=1e-12, atol=1e-14)


def test_a_part_without_examples_leaves_moving_averages_alone(backbone):
    settings = {"freeze": {"depth": 0, "batch_norm": "trainable"}}
    divided = make_task(backbone, train={"precision": "float64", "accumulate_steps": 2}, **settings)
    whole = make_task(backbone, **settings)
    batch = make_batch(real=3)
    assert run(divided, batch) == pytest.approx(run(whole, batch), rel=1e-12)
    for ours, theirs in zip(divided.statistics, whole.statistics, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


def test_sharpness_aware_minimisation_takes_the_gradient_uphill(backbone):
    task, plain = make_task(backbone, optim={"sam": {"rho": 0.05}}), make_task(backbone)
    batch, start = make_batch(), flat(task)
    here = gradient_at(plain, batch, start)
    uphill = gradient_at(plain, batch, start + 0.05 * here / np.linalg.norm(here))
    assert np.linalg.norm(uphill - here) > 1e-6
    assert run(task, batch) == pytest.approx(run(plain, batch), rel=1e-12)
    np.testing.assert_allclose(flat(task), start - 0.125 * uphill, rtol=1e-9, atol=1e-12)
    shown = np.concatenate([np.ravel(task.variables[index].numpy()) for index in task.updater.order])
    np.testing.assert_array_equal(shown, flat(task))


def test_sharpness_aware_minimisation_on_a_quadratic(backbone):
    # For loss a/2 |w|^2 the gradient uphill is a (w + rho w / |w|).
    a, rho, rate = 0.3, 0.5, 0.125
    task = make_task(backbone, optim={"sam": {"rho": rho}})

    def quadratic(task, batch):
        with tf.GradientTape() as tape:
            loss = a / 2 * tf.add_n([tf.reduce_sum(tf.square(value)) for value in task.variable_values])
        return task.minimize(tape, loss)

    task._step = quadratic
    start = flat(task)
    (loss,) = run(task, make_batch())
    assert loss == pytest.approx(a / 2 * np.sum(start**2), rel=1e-12)
    expected = start - rate * a * start * (1 + rho / np.linalg.norm(start))
    np.testing.assert_allclose(flat(task), expected, rtol=1e-12)


def test_the_point_uphill_does_not_move_batch_statistics(backbone):
    settings = {"freeze": {"depth": 0, "batch_norm": "trainable"}}
    task, plain = make_task(backbone, optim={"sam": {"rho": 0.5}}, **settings), make_task(backbone, **settings)
    run(task, make_batch())
    run(plain, make_batch())
    for ours, theirs in zip(task.statistics, plain.statistics, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


def test_a_step_of_ones_own_that_updates_twice_is_refused_in_parts(backbone):
    task = make_task(backbone, train={"precision": "float64", "accumulate_steps": 2})

    def twice(task, batch):
        train_step(task, batch)
        return train_step(task, batch)

    task._step = twice
    with pytest.raises(ConfigError, match="2 times a step"):
        task.run_step(make_batch())


def make_updater(values):
    variable = keras.Variable(np.array(values, "float64"), dtype="float64")
    config = parse_config({"data": {"source": "x"}, "optim": {"name": "sgd"}}).optim
    return variable, Updater(config, [variable], [variable.value], total_steps=10)


def set_weights(updater, values):
    updater._weights[0].assign(np.array(values, "float64"))


@pytest.mark.parametrize("warmup", [False, True])
def test_a_moving_average_has_its_closed_form(warmup):
    _, updater = make_updater([1.0, -2.0])
    statistic = keras.Variable(np.array([4.0]), dtype="float64", trainable=False)
    average = MovingAverage(updater, [statistic], decay=0.5, warmup=warmup)
    expected, expected_statistic = np.array([1.0, -2.0]), 4.0
    for step in range(12):
        set_weights(updater, [step, step**2])
        statistic.assign([10.0 * step])
        average.add(tf.constant(step, tf.int64))
        decay = min(0.5, (1 + step) / (10 + step)) if warmup else 0.5
        expected = decay * expected + (1 - decay) * np.array([step, step**2])
        expected_statistic = decay * expected_statistic + (1 - decay) * 10 * step
    np.testing.assert_allclose(average.state[0].numpy(), expected, rtol=1e-12)
    assert float(average.state[1].numpy()[0]) == pytest.approx(expected_statistic)


def test_an_epoch_average_is_the_mean_and_shows_in_the_network_inside_its_block_alone():
    variable, updater = make_updater([1.0, -2.0])
    average = EpochAverage(updater, [])
    with average.in_network():
        # Nothing averaged yet.
        np.testing.assert_array_equal(variable.numpy(), [1.0, -2.0])
    for values in ([1.0, 5.0], [2.0, 7.0], [6.0, 0.0]):
        set_weights(updater, values)
        updater.write(updater.weights())
        average.add()
    with average.in_network():
        np.testing.assert_allclose(variable.numpy(), [3.0, 4.0], rtol=1e-12)
    np.testing.assert_array_equal(variable.numpy(), [6.0, 0.0])


def test_recomputed_statistics_are_the_mean_moments_of_the_batches(backbone):
    task = make_task(backbone, freeze={"depth": 0, "batch_norm": "trainable"})
    batches = [make_batch(seed=1), make_batch(real=2, seed=2)]
    first = task.network.model.get_layer("block1_conv")
    moments = []
    for batch, real in zip(batches, (6, 2), strict=True):
        out = first(batch["image"][:real] / 255).numpy()
        moments.append((out.mean(axis=(0, 1, 2)), out.var(axis=(0, 1, 2))))
    expected = [(6 * moments[0][which] + 2 * moments[1][which]) / 8 for which in (0, 1)]
    signature = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in batches[0].items()}
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    values = make_statistics(task)(data, 2)
    assert len(values) == 4
    for value, by_hand in zip(values, expected, strict=False):
        np.testing.assert_allclose(value, by_hand, rtol=1e-5)
