"""The whole network: the textbook cases, seeds, precision, splits, and what is refused."""

import random

import keras
import numpy as np
import pytest

from rayft.config import RunConfig
from rayft.errors import ModelError
from rayft.model.backbone import default_image_size
from rayft.model.layers import portable
from rayft.model.network import build_network

LITE = {"backbone": "efficientnet_lite0", "weights": "none"}
PLAIN = {"backbone": "none", "weights": "none", "pooling": "flatten"}


def config(model, size=32, channels=3, seed=0, precision="float32", **freeze):
    return RunConfig.model_validate(
        {
            "seed": seed,
            "data": {"source": "x", "image_size": size, "channels": channels},
            "model": model,
            "freeze": freeze,
            "train": {"precision": precision},
        }
    )


def count(weights):
    return sum(int(np.prod(w.shape)) for w in weights)


def pictures(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


@pytest.fixture
def model_file(tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, name="first"),
            layers.BatchNormalization(name="first_norm"),
            layers.ReLU(),
            layers.Conv2D(5, 3, name="second"),
        ]
    )
    model.save(tmp_path / "own.keras")
    return str(tmp_path / "own.keras")


def test_frozen_vgg16_with_a_dense_layer_of_256_is_the_textbook_network():
    model = {"backbone": "vgg16", "weights": "none", "hidden": [256], "dropout": 0.0}
    network = build_network(config(model), 7)
    assert count(network.model.trainable_weights) == 512 * 256 + 256 + 256 * 7 + 7
    assert [block.name for block in network.blocks] == ["block1", "block2", "block3", "block4", "block5"]
    assert network.frozen_depth == 5
    tail = [type(layer).__name__ for layer in network.model.layers[-3:]]
    assert tail == ["GlobalAveragePooling2D", "Dense", "Dense"]
    assert network.model.get_layer("head_dense_1").activation is keras.activations.relu
    assert network.boundary.shape == (None, 512)


def test_the_network_of_784_128_10_is_the_textbook_network():
    model = {**PLAIN, "hidden": [128], "dropout": 0.2}
    network = build_network(config(model, size=28, channels=1), 10)
    assert count(network.model.trainable_weights) == 784 * 128 + 128 + 128 * 10 + 10
    names = [type(layer).__name__ for layer in network.model.layers]
    assert names == ["InputLayer", "Rescaling", "Flatten", "Dense", "Dropout", "Dense"]
    assert (network.blocks, network.frozen_depth, network.split()) == ((), 0, None)
    image = pictures(2, 28, 28, 1)
    dense, logits = (network.model.get_layer(name).get_weights() for name in ("head_dense_1", "logits"))
    hidden = np.maximum(image.reshape(2, 784) / 255 @ dense[0] + dense[1], 0)
    np.testing.assert_allclose(network.model(image).numpy(), hidden @ logits[0] + logits[1], atol=1e-5)


def test_initial_weights_and_layer_names_depend_on_the_seed_alone(model_file):
    model = {"backbone": model_file, "weights": "none", "hidden": [8]}
    first = build_network(config(model, size=16), 3).model
    random.seed(99)
    keras.layers.Dense(3)
    state = random.getstate()
    second = build_network(config(model, size=16), 3).model
    assert random.getstate() == state
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = build_network(config(model, size=16, seed=1), 3).model
    for name in ("first", "head_dense_1", "logits"):
        assert not np.array_equal(first.get_layer(name).kernel.numpy(), other.get_layer(name).kernel.numpy())


def test_automatic_layer_names_do_not_depend_on_earlier_models():
    model = {"backbone": "mobilenet_v3_small", "weights": "none"}
    names = [[layer.name for layer in build_network(config(model), 2).model.layers] for _ in range(2)]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("precision", "inner", "logits"),
    [
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("float16", "float16", "float32"),
        ("float64", "float64", "float64"),
    ],
)
def test_precision_sets_activations_while_logits_stay_exact(precision, inner, logits):
    before = keras.config.dtype_policy().name
    network = build_network(config(LITE, precision=precision, depth=3), 3)
    assert keras.config.dtype_policy().name == before
    assert network.boundary.dtype == inner
    answer = network.model(pictures(1, 32, 32, 3))
    assert answer.dtype == logits
    assert {str(w.dtype) for w in network.model.trainable_weights} == {
        "float64" if precision == "float64" else "float32"
    }
    assert np.isfinite(answer.numpy()).all()


@pytest.mark.parametrize("depth", [1, "block3b", 0.5, "all"])
def test_prefix_and_suffix_together_are_the_whole_network_bit_for_bit(depth):
    network = build_network(config({**LITE, "hidden": [8]}, depth=depth), 3)
    prefix, suffix = network.split()
    image = pictures(2, 32, 32, 3)
    np.testing.assert_array_equal(suffix(prefix(image)).numpy(), network.model(image).numpy())
    assert not prefix.trainable_weights
    trainable = {id(w) for w in network.model.trainable_weights}
    assert {id(w) for w in suffix.trainable_weights} == trainable


def test_pretrained_batch_norm_stays_in_inference_mode_and_fresh_batch_norm_does_not(model_file):
    def moving(weights, **freeze):
        network = build_network(config({"backbone": model_file, "weights": weights}, size=16, **freeze), 2)
        layer = network.model.get_layer("first_norm")
        before = layer.moving_mean.numpy()
        network.model(pictures(4, 16, 16, 3), training=True)
        return not np.array_equal(before, layer.moving_mean.numpy())

    assert moving("none", depth=0)
    assert not moving("none", depth=0, batch_norm="frozen")
    assert not moving("none", depth="all")
    assert not moving("imagenet", depth=0)
    assert moving("imagenet", depth=0, batch_norm="trainable")


def test_frozen_dropout_drops_nothing_in_training():
    network = build_network(config({"backbone": "efficientnetb0", "weights": "none", "dropout": 0.0}, depth="all"), 2)
    image = pictures(4, 32, 32, 3)
    np.testing.assert_array_equal(network.model(image, training=True).numpy(), network.model(image).numpy())


def test_one_channel_works_from_random_weights_alone():
    assert build_network(config({"backbone": "vgg16", "weights": "none"}, channels=1), 2).model.input_shape[-1] == 1
    with pytest.raises(ModelError, match="channels is 1"):
        build_network(config({"backbone": "efficientnet_lite0"}, channels=1), 2)


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        ({"backbone": "xception", "weights": "none"}, 64, "below 71 pixels"),
        ({"backbone": "InceptionV3", "weights": "none"}, 74, "below 75 pixels"),
        (LITE, 31, "below 32 pixels"),
        ({"backbone": "resnet5"}, 32, "near it: resnet50"),
        ({**LITE, "activation": "rellu"}, 32, "rellu"),
        ({**LITE, "weights": "missing.weights.h5"}, 32, "no such file"),
        ({**LITE, "weights": "missing.pth"}, 32, "missing.pth"),
        ({**LITE, "weights": "image_net"}, 32, "image_net"),
        ({"backbone": "missing.keras"}, 32, "no such file"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_value(model, size, message):
    with pytest.raises(ModelError, match=message):
        build_network(config(model, size=size), 2)


@pytest.mark.parametrize(
    ("backbone", "side"), [("vgg16", 224), ("Xception", 299), ("efficientnet_b3", 300), ("efficientnet_lite2", 260)]
)
def test_the_usual_picture_size_is_known_without_building(backbone, side):
    assert default_image_size(config({"backbone": backbone}).model) == (side, side)


def test_an_own_model_file_becomes_a_backbone_with_its_weights(model_file):
    network = build_network(config({"backbone": model_file}, size=16, depth="first"), 2)
    assert [block.name for block in network.blocks] == ["first", "second"]
    assert network.licence.endswith("own.keras")
    assert default_image_size(config({"backbone": model_file}).model) == (16, 16)
    original = keras.saving.load_model(model_file)
    image = pictures(2, 16, 16, 3)
    features = keras.Model(network.model.inputs[0], network.model.get_layer("second").output)
    np.testing.assert_array_equal(features(image).numpy(), original(image).numpy())


def test_an_own_model_file_takes_precision_and_fresh_weights(model_file):
    network = build_network(config({"backbone": model_file, "weights": "none"}, size=16, precision="bfloat16"), 2)
    assert network.model.get_layer("second").compute_dtype == "bfloat16"
    first = network.model.get_layer("first").kernel.numpy()
    assert not np.array_equal(first, keras.saving.load_model(model_file).get_layer("first").kernel.numpy())


def test_an_own_model_file_of_another_size_is_refused(model_file):
    with pytest.raises(ModelError, match=r"\(16, 16, 3\)"):
        build_network(config({"backbone": model_file}, size=20), 2)


def test_a_model_file_with_code_is_refused(tmp_path):
    path = str(tmp_path / "lambda.keras")
    keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Lambda(lambda x: x + 1)]).save(path)
    with pytest.raises(ModelError, match="Cannot load"):
        build_network(config({"backbone": path}, size=16), 2)


def test_a_damaged_model_file_is_refused(tmp_path):
    path = tmp_path / "damaged.keras"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ModelError, match="Cannot load"):
        build_network(config({"backbone": str(path)}, size=16), 2)


def test_the_whole_network_loads_from_its_file_in_safe_mode(tmp_path):
    network = build_network(config({"backbone": "vgg16", "weights": "none"}), 2)
    network.split()
    portable(network.model).save(tmp_path / "m.keras")
    image = pictures(1, 32, 32, 3)
    again = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True, compile=False)
    np.testing.assert_array_equal(again(image).numpy(), network.model(image).numpy())
