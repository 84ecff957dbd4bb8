"""Adapters: nothing changes at first, few weights train, and the package holds plain layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_learn_step import CLASSES, SIDE, make_batch, make_config

from rayft.errors import ConfigError, ModelError
from rayft.learn.checkpoint import dump_state
from rayft.learn.state import frozen_variables
from rayft.learn.step import Task
from rayft.model.layers import portable
from rayft.model.network import build_network


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A network with every kind of layer that takes an adapter, and normalisation."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", name="block1_conv")(x)
    x = keras.layers.BatchNormalization(name="block1_bn")(x)
    x = keras.layers.Conv2D(6, 1, activation="relu", name="block2_conv")(x)
    x = keras.layers.Reshape((SIDE * SIDE, 6))(x)
    x = keras.layers.EinsumDense("btc,cd->btd", (None, 5), bias_axes="d", activation="relu", name="block3_dense")(x)
    x = keras.layers.LayerNormalization(name="block3_norm")(x)
    x = keras.layers.Dense(5, activation="relu", name="block4_dense")(x)
    path = tmp_path_factory.mktemp("model") / "mixed.keras"
    model = keras.Model(inputs, x)
    # Statistics that differ from those of any batch.
    model.get_layer("block1_bn").moving_mean.assign([0.1, -0.2, 0.3, 0.0])
    model.save(path)
    return str(path)


def make_task(backbone, adapter, depth=0, **changes):
    config = make_config(
        backbone, model={"backbone": backbone, "dropout": 0, "adapter": adapter}, freeze={"depth": depth}, **changes
    )
    network = build_network(config, CLASSES)
    return Task(config, network, total_steps=10)


def train(task, steps=3):
    step = tf.function(task.run_step)
    return [float(step(make_batch(step=index, seed=index))) for index in range(steps)]


LORA = {"kind": "lora", "rank": 2, "alpha": 4}


def test_at_first_the_output_is_the_backbones(backbone):
    plain = build_network(make_config(backbone, freeze={"depth": 0}), CLASSES)
    adapted = make_task(backbone, LORA)
    images = make_batch()["image"]
    np.testing.assert_array_equal(adapted.network.model(images), plain.model(images))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_merged_network_answers_as_the_adapted_one(backbone, precision, tmp_path):
    task = make_task(backbone, LORA, train={"precision": precision}, optim={"learning_rate": 0.5})
    before = task.network.model(make_batch()["image"])
    train(task)
    images = make_batch(seed=5)["image"]
    answer = task.network.model(images).numpy()
    assert np.abs(answer - task.network.model(make_batch()["image"])).max() > 0
    merged = portable(task.network.model)
    merged.save(tmp_path / "merged.keras")
    loaded = keras.models.load_model(tmp_path / "merged.keras")
    assert not [weight.path for weight in loaded.weights if "lora" in weight.path]
    tolerance = 1e-12 if precision == "float64" else 1e-5
    np.testing.assert_allclose(loaded(images), answer, rtol=tolerance, atol=tolerance)
    assert np.abs(before - task.network.model(make_batch()["image"])).max() > 1e-3


def test_the_addition_is_alpha_over_rank_times_a_b(backbone):
    task = make_task(backbone, LORA)
    train(task)
    layer = task.network.model.get_layer("block4_dense")
    a, b = layer.lora_kernel_a.numpy(), layer.lora_kernel_b.numpy()
    assert (a.shape, b.shape) == ((5, 2), (2, 5))
    kernel = portable(task.network.model).get_layer("block4_dense").kernel.numpy()
    np.testing.assert_allclose(kernel, layer._kernel.numpy() + 4 / 2 * a @ b, rtol=1e-6)
    conv = task.network.model.get_layer("block1_conv")
    assert (conv.lora_kernel_a.shape, conv.lora_kernel_b.shape) == ((3, 3, 3, 2), (2, 4))


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (LORA, {f"block{n}_{kind}/lora_kernel_{x}" for n, kind in enumerate(("conv", "conv", "dense", "dense"), 1)
                for x in "ab"}),
        ({**LORA, "layers": "block[34]"}, {f"block{n}_dense/lora_kernel_{x}" for n in (3, 4) for x in "ab"}),
        ({"kind": "bias"}, {"block1_conv/bias", "block2_conv/bias", "block3_dense/bias", "block4_dense/bias"}),
        (
            {"kind": "bias", "layers": "block4", "norm": True},
            {"block4_dense/bias", "block1_bn/gamma", "block1_bn/beta", "block3_norm/gamma", "block3_norm/beta"},
        ),
    ],
)  # fmt: skip
def test_what_is_named_trains_and_nothing_else_moves(backbone, adapter, expected):
    task = make_task(backbone, adapter)
    before = {variable.path: np.array(variable) for variable in task.network.model.weights}
    train(task)
    moved = {path for path, value in before.items() if (value != np.array(_find(task, path))).any()}
    assert {variable.path for variable in task.variables} == expected | {"logits/kernel", "logits/bias"}
    assert moved == {variable.path for variable in task.variables}
    assert {variable.path for variable in frozen_variables(task)} == set(before) - moved


def _find(task, path):
    return next(variable for variable in task.network.model.weights if variable.path == path)


def test_blocks_below_the_depth_stay_a_folded_prefix_without_adapters(backbone):
    task = make_task(backbone, LORA, depth=2)
    assert task.model.prefix is not None
    names = {variable.path.split("/")[0] for variable in task.variables}
    assert names == {"block3_dense", "block4_dense", "logits"}


def test_a_checkpoint_leaves_out_the_backbone(backbone):
    whole = make_config(backbone, freeze={"depth": 0})
    full = len(dump_state(Task(whole, build_network(whole, CLASSES), total_steps=10)))
    assert len(dump_state(make_task(backbone, {"kind": "bias"}))) < full


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        ({"kind": "lora", "layers": "attention"}, "suited are block1_conv, block2_conv, block3_dense, block4_dense"),
        ({"kind": "bias", "layers": "block9"}, "it has 2 Conv2D, 1 BatchNormalization, 1 EinsumDense"),
    ],
)
def test_names_that_no_layer_has_are_refused_with_what_there_is(backbone, adapter, problem):
    with pytest.raises(ModelError, match=problem):
        make_task(backbone, adapter)


def test_a_backbone_without_biases_is_told_of_norm():
    with pytest.raises(ModelError) as caught:
        make_task("efficientnet_lite0", {"kind": "bias"}, data={"image_size": 32})
    assert "DepthwiseConv2D" in caught.value.args[0]
    assert "norm: true" in caught.value.args[1]


@pytest.mark.parametrize(
    ("adapter", "freeze", "problem"),
    [
        ({"kind": "bias", "rank": 3}, {}, "kind bias has neither"),
        ({"kind": "lora", "layers": "("}, {}, "no regular expression"),
        ({"kind": "lora"}, {"depth": "all"}, "freeze.depth is all with model.adapter"),
        ({"kind": "lora"}, {"batch_norm": "trainable"}, "batch_norm is trainable with model.adapter"),
        ({"kind": "low"}, {}, "model.adapter.kind: got \"low\"; allowed: lora, bias"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(adapter, freeze, problem):
    from rayft.config import parse_config

    with pytest.raises(ConfigError) as caught:
        parse_config({"data": {"source": "x"}, "model": {"adapter": adapter}, "freeze": freeze})
    assert problem in caught.value.args[0]


def test_an_adapter_moves_the_default_depth_to_the_input():
    from rayft.config import parse_config

    config = parse_config({"data": {"source": "x"}, "model": {"adapter": {"kind": "lora"}}})
    assert (config.freeze.depth, config.optim.learning_rate) == (0, 1e-3)
    assert (config.model.adapter.rank, config.model.adapter.alpha) == (8, 16)
    assert parse_config(config.model_dump(mode="json")) == config
