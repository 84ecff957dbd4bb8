import keras
import numpy as np
import pytest
import tensorflow as tf

from rayft.config import OptimConfig
from rayft.errors import ConfigError
from rayft.learn.keras_optimizer import get_optimizer
from rayft.learn.optimizer import Updater
from rayft.learn.schedule import learning_rate

SHAPES = [(3, 4), (4,), (2, 2, 3), (3,)]


def make_variables(seed=0):
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape).astype("float32")) for shape in SHAPES]


def make_gradients(count=5):
    rng = np.random.default_rng(1)
    return [[tf.constant(rng.normal(size=shape).astype("float32")) for shape in SHAPES] for _ in range(count)]


def flat(updater, gradients):
    return tf.concat([tf.reshape(gradients[index], [-1]) for index in updater.order], axis=0)


def update(config, steps=5):
    variables = make_variables()
    updater = Updater(config, variables, [variable.value for variable in variables], total_steps=10)
    for step, gradients in enumerate(make_gradients(steps)):
        updater.apply(flat(updater, gradients), tf.constant(step, tf.int64))
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "lion", "nadam", "adagrad", "adafactor", "lamb", "muon"])
def test_an_update_equals_keras_own_update_of_each_variable(name):
    config = OptimConfig(name=name, learning_rate=0.01, schedule="constant", warmup_fraction=0)
    expected = make_variables()
    optimizer = get_optimizer(config)
    optimizer.build(expected)
    for gradients in make_gradients():
        optimizer.apply([tf.identity(gradient) for gradient in gradients], expected)
    for ours, theirs in zip(update(config), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adafactor"])
def test_weight_decay_shrinks_matrices_and_spares_vectors(name):
    plain = OptimConfig(name=name, learning_rate=0.1, schedule="constant", warmup_fraction=0)
    decayed = plain.model_copy(update={"weight_decay": 0.5})
    before = [variable.numpy() for variable in make_variables()]
    for start, without, with_decay in zip(before, update(plain, 1), update(decayed, 1), strict=True):
        if start.ndim > 1 and name == "sgd":
            # w - lr * wd * w - lr * g, against w - lr * g.
            np.testing.assert_allclose(without - with_decay, 0.1 * 0.5 * start, rtol=1e-4, atol=1e-6)
        elif start.ndim > 1:
            assert not np.allclose(without, with_decay)
        else:
            np.testing.assert_array_equal(without, with_decay)


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    config = OptimConfig(name="sgd", learning_rate=1.0, schedule="constant", warmup_fraction=0, clip_norm=0.05)
    moved = [after - before.numpy() for after, before in zip(update(config, 1), make_variables(), strict=True)]
    assert np.sqrt(sum(np.sum(np.square(part)) for part in moved)) == pytest.approx(0.05, rel=1e-4)


def test_the_rate_warms_up_linearly_and_falls_as_half_a_cosine():
    config = OptimConfig(learning_rate=2.0, warmup_fraction=0.1)
    rates = [float(learning_rate(config, tf.constant(step, tf.int64), 100)) for step in (0, 9, 10, 55, 99)]
    assert rates == pytest.approx([0.2, 2.0, 2.0, 1.0, 1 + np.cos(np.pi * 89 / 90)], abs=1e-5)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (OptimConfig(name="adamm"), "adamm"),
        (OptimConfig(options={"clipnorm": 1.0}), "clipnorm"),
        (OptimConfig(options={"learning_rate": 1.0}), "optim.learning_rate"),
        (OptimConfig(options={"beta_9": 1.0}), "beta_9"),
        (OptimConfig(name="builtins:dict"), "dict"),
    ],
)
def test_a_wrong_optimizer_is_refused_by_its_value(config, says):
    with pytest.raises(ConfigError, match=says):
        get_optimizer(config)


FACTORS = [0.25, 1.0, 3.0, 0.5]


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "lion", "nadam", "adagrad", "lamb"])
def test_rate_factors_equal_an_optimizer_for_each_group(name):
    config = OptimConfig(name=name, learning_rate=0.01, schedule="constant", warmup_fraction=0, weight_decay=0.1)
    variables = make_variables()
    updater = Updater(config, variables, [v.value for v in variables], total_steps=10, rate_factors=FACTORS)
    alone = make_variables()
    groups = [
        Updater(
            config.model_copy(update={"learning_rate": 0.01 * factor}), [variable], [variable.value], total_steps=10
        )
        for variable, factor in zip(alone, FACTORS, strict=True)
    ]
    for step, gradients in enumerate(make_gradients()):
        updater.apply(flat(updater, gradients), tf.constant(step, tf.int64))
        for group, gradient in zip(groups, gradients, strict=True):
            group.apply(tf.reshape(gradient, [-1]), tf.constant(step, tf.int64))
    for ours, theirs in zip(variables, alone, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-7)


def test_weights_written_to_the_model_leave_the_updater_its_own():
    variables = make_variables()
    updater = Updater(OptimConfig(), variables, [v.value for v in variables], total_steps=10)
    own = updater.weights()
    updater.write(own + 1)
    for shown, before in zip(variables, make_variables(), strict=True):
        np.testing.assert_array_equal(shown.numpy(), before.numpy() + 1)
    np.testing.assert_array_equal(updater.weights(), own)
