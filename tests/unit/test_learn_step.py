import keras
import numpy as np
import pytest
import tensorflow as tf
from small_backbone import SIDE, save_small_backbone

from rayft.config import parse_config
from rayft.errors import RunFailed
from rayft.learn.forward import Forward
from rayft.learn.loop import Plan, train_epochs
from rayft.learn.state import frozen_variables, state_variables
from rayft.learn.step import Task
from rayft.model.network import build_network

CLASSES = 3


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_small_backbone(tmp_path_factory.mktemp("model"))


def make_config(backbone, **changes):
    tree = {
        "data": {"source": "none", "global_batch_size": 6},
        "model": {"backbone": backbone, "dropout": 0},
        "freeze": {"depth": 1},
        "optim": {"name": "sgd", "learning_rate": 0.1, "schedule": "constant", "warmup_fraction": 0},
        "train": {},
    }
    for name, values in changes.items():
        tree[name] = {**tree[name], **values}
    return parse_config(tree)


def make_task(config, total_steps=10):
    network = build_network(config, CLASSES)
    return Task(config, network, total_steps=total_steps)


def make_batch(real=6, padding=0, step=0, seed=0):
    rng = np.random.default_rng(seed)
    rows = real + padding
    images = rng.uniform(0, 255, (rows, SIDE, SIDE, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, rows).astype("int32")
    return {
        "image": tf.constant(images),
        "label": tf.constant(labels),
        "weight": tf.constant([1.0] * real + [0.0] * padding),
        "position": tf.constant(np.minimum(np.arange(rows), 5).astype("int32")),
        "count": tf.constant(float(real)),
        "step": tf.constant(step, tf.int64),
    }


def run(task, batch):
    return float(tf.function(task.run_step)(batch))


def weights(task):
    return [np.asarray(variable) for variable in task.variables]


def test_a_step_is_plain_gradient_descent_on_the_mean_loss(backbone):
    task = make_task(make_config(backbone))
    batch = make_batch()
    model = task.network.model
    with tf.GradientTape() as tape:
        each = keras.losses.sparse_categorical_crossentropy(batch["label"], model(batch["image"]), from_logits=True)
        expected_loss = tf.reduce_mean(each)
    gradients = tape.gradient(expected_loss, [variable.value for variable in model.trainable_variables])
    expected = [before - 0.1 * gradient.numpy() for before, gradient in zip(weights(task), gradients, strict=True)]
    assert run(task, batch) == pytest.approx(float(expected_loss), rel=1e-5)
    for ours, theirs in zip(weights(task), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_padding_changes_neither_loss_nor_update(backbone):
    config = make_config(backbone, freeze={"batch_norm": "trainable"})
    without, with_padding = make_task(config), make_task(config)
    batch = make_batch()
    padded = make_batch(real=6, padding=2, seed=9)
    for key in ("image", "label"):
        padded[key] = tf.concat([batch[key], padded[key][6:]], axis=0)
    assert run(with_padding, padded) == pytest.approx(run(without, batch), rel=1e-5)
    for ours, theirs in zip(weights(with_padding), weights(without), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_only_trainable_variables_have_gradients_and_state(backbone):
    task = make_task(make_config(backbone, optim={"name": "adam"}))
    trainable = sum(int(np.prod(variable.shape)) for variable in task.variables)
    seen = {}
    task.all_reduce = lambda values: seen.setdefault("communicated", values)
    run(task, make_batch())
    # One number more: the loss travels along.
    assert seen["communicated"].shape == (trainable + 1,)
    frozen = {variable.path for variable in frozen_variables(task)}
    assert frozen == {
        f"block1_{part}" for part in ("conv/kernel", "bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance")
    }
    assert not frozen & {variable.path for variable in state_variables(task)}


def test_frozen_weights_stay_and_the_folded_prefix_computes_the_same(backbone):
    task = make_task(make_config(backbone))
    before = [np.asarray(variable) for variable in frozen_variables(task)]
    batch = make_batch()
    for step in range(3):
        run(task, {**batch, "step": tf.constant(step, tf.int64)})
    for ours, theirs in zip(frozen_variables(task), before, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), theirs)
    forward = Forward(task.network)
    assert forward.prefix is not None
    whole = task.network.model(batch["image"], training=False)
    np.testing.assert_allclose(forward(batch["image"]), whole, rtol=1e-4, atol=1e-5)


def test_regularisers_of_the_network_are_part_of_the_loss(tmp_path):
    inputs = keras.Input((SIDE, SIDE, 3))
    conv = keras.layers.Conv2D(2, 3, kernel_regularizer=keras.regularizers.L2(0.5), name="block1_conv")
    path = tmp_path / "regularised.keras"
    keras.Model(inputs, conv(inputs)).save(path)
    task = make_task(make_config(str(path), freeze={"depth": 0}))
    kernel = np.asarray(task.variables[0])
    batch = make_batch()
    bare = task.network.model(batch["image"])
    each = keras.losses.sparse_categorical_crossentropy(batch["label"], bare, from_logits=True)
    expected = float(tf.reduce_mean(each)) + 0.5 * float(np.sum(np.square(kernel)))
    assert run(task, batch) == pytest.approx(expected, rel=1e-5)


def test_float16_skips_an_overflow_and_halves_its_scale(backbone):
    task = make_task(make_config(backbone, train={"precision": "float16"}))
    task.loss_scale.scale.assign(2.0**127)
    before = weights(task)
    run(task, make_batch())
    for ours, theirs in zip(weights(task), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert float(task.loss_scale.scale) == 2.0**126
    task.loss_scale.scale.assign(2.0**10)
    run(task, make_batch())
    assert any((ours != theirs).any() for ours, theirs in zip(weights(task), before, strict=True))
    assert float(task.loss_scale.scale) == 2.0**10


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.03), ("float16", 0.01), ("float64", 1e-5)])
def test_every_precision_takes_about_the_same_step(backbone, precision, tolerance):
    single = make_task(make_config(backbone))
    other = make_task(make_config(backbone, train={"precision": precision}))
    # The same seed draws other numbers in float64.
    other.network.model.set_weights(single.network.model.get_weights())
    other.updater.reload()
    assert run(other, make_batch()) == pytest.approx(run(single, make_batch()), rel=tolerance)
    moved = np.concatenate([part.ravel() for part in weights(single)])
    np.testing.assert_allclose(np.concatenate([part.ravel() for part in weights(other)]), moved, atol=tolerance)


def dataset_of(batches):
    def generate():
        yield from batches

    signature = {key: tf.TensorSpec(value.shape, value.dtype) for key, value in batches[0].items()}
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def test_the_loop_reports_every_step_once_and_evaluates_after_each_epoch(backbone):
    task = make_task(make_config(backbone))
    batches = [make_batch(step=step, seed=step) for step in range(10)]
    evaluated = []

    def evaluate():
        evaluated.append(weights(task)[0])
        return {"accuracy": 0.5}

    seen = list(train_epochs(task, dataset_of(batches), evaluate, Plan(5, 2, checkpoint_every_steps=3)))
    assert sum(len(progress.losses) for progress in seen) == 10
    assert [progress.step for progress in seen if progress.metrics] == [5, 10]
    assert {3, 5, 6, 9, 10} <= {progress.step for progress in seen}
    assert len(evaluated) == 2

    by_hand = make_task(make_config(backbone))
    losses = [run(by_hand, batch) for batch in batches]
    np.testing.assert_allclose(np.concatenate([progress.losses for progress in seen]), losses, rtol=1e-6)


def test_a_loss_that_is_not_finite_names_epoch_and_step(backbone):
    task = make_task(make_config(backbone))
    batches = [make_batch(step=step) for step in range(6)]
    # Not the picture: some kernels of ReLU give 0 for what is not a number.
    batches[4]["weight"] *= np.nan
    with pytest.raises(RunFailed, match="loss is nan at epoch 2, step 5"):
        list(train_epochs(task, dataset_of(batches), dict, Plan(3, 2)))


def test_a_request_to_stop_ends_the_loop_after_the_call(backbone):
    task = make_task(make_config(backbone))
    batches = [make_batch(step=step) for step in range(9)]
    seen = list(train_epochs(task, dataset_of(batches), dict, Plan(3, 3), stop_requested=lambda: True))
    assert [(progress.step, progress.stopping) for progress in seen] == [(1, True)]
