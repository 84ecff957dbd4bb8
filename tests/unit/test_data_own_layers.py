import keras
import numpy as np
import pytest
import tensorflow as tf

from rayft.config import AugmentConfig, LayerConfig
from rayft.data.augment import augment
from rayft.data.own_layers import apply_layers, make_layer, require_stateless
from rayft.errors import ConfigError

SHAPE = (8, 8, 3)


def picture() -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).uniform(0, 255, SHAPE), tf.float32)


def key(number: int) -> tf.Tensor:
    return tf.constant([3, number], tf.int64)


def brighten(image, seed, by=10.0):
    return image + tf.random.stateless_uniform([], seed, 0.0, by)


def with_state(image, seed):
    return image + tf.random.uniform([])


def with_numpy(image, seed):
    return tf.numpy_function(lambda x: x + np.float32(np.random.rand()), [image], tf.float32)


def drawn_while_tracing(image, seed):
    return image + float(np.random.rand())


def halved(image, seed):
    return image[::2]


def test_a_keras_layer_draws_from_the_seed_alone():
    layers = (LayerConfig(name="RandomTranslation", config={"height_factor": 0.4, "width_factor": 0.4}),)
    results = [apply_layers(picture(), key(number), layers).numpy() for number in range(4)]
    again = [apply_layers(picture(), key(number), layers).numpy() for number in range(4)]
    np.testing.assert_array_equal(results, again)
    assert len({result.tobytes() for result in results}) > 1
    compiled = tf.function(lambda image, seed: apply_layers(image, seed, layers))
    np.testing.assert_allclose(compiled(picture(), key(1)), results[1], atol=1e-3)


def test_a_keras_layer_does_what_keras_does_with_the_same_factor():
    # A range of one value leaves nothing to draw.
    layers = (LayerConfig(name="RandomBrightness", config={"factor": (0.1, 0.1)}),)
    want = tf.clip_by_value(picture() + 25.5, 0, 255)
    np.testing.assert_allclose(apply_layers(picture(), key(0), layers), want, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("RandomFlip", "{}"),
        ("RandomZoom", '{"height_factor": 0.2}'),
        ("RandomColorJitter", '{"value_range": [0, 255], "brightness_factor": 0.2, "hue_factor": 0.1}'),
        ("RandomGaussianBlur", '{"factor": 1.0, "value_range": [0, 255]}'),
    ],
)
def test_layers_that_keep_the_rule_pass_the_proof(name, config):
    require_stateless(name, config, SHAPE)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        ("with_state", "keeps a state .operation RandomUniform"),
        ("with_numpy", "calls Python code"),
        ("drawn_while_tracing", "gives different pictures for the same seed"),
        ("halved", r"turns the shape \[8, 8, 3\] into \(4, 8, 3\)"),
    ],
)
def test_functions_that_break_the_rule_are_refused_by_name(function, found):
    with pytest.raises(ConfigError, match=f"{function} {found}"):
        require_stateless(f"{__name__}:{function}", "{}", SHAPE)


def test_a_keras_layer_with_its_own_state_is_refused(monkeypatch):
    class Counting(keras.layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, inputs):
            self.calls.assign_add(1.0)
            return inputs + self.calls

    monkeypatch.setattr(keras.layers, "Counting", Counting, raising=False)
    with pytest.raises(ConfigError, match="Counting keeps a state"):
        require_stateless("Counting", "{}", SHAPE)


@pytest.mark.parametrize(
    ("name", "config", "found"),
    [
        ("CutMix", "{}", r"one batch of one worker.*\n.*data.augment.cutmix"),
        ("RandomZom", "{}", "keras.layers has no such layer"),
        ("RandomContrast", '{"factr": 1}', "RandomContrast refuses"),
    ],
)
def test_what_cannot_be_a_layer_is_refused_with_the_reason(name, config, found):
    with pytest.raises(ConfigError, match=found):
        make_layer(name, config)


def test_a_function_of_ones_own_takes_picture_seed_and_its_arguments():
    config = AugmentConfig(layers=(LayerConfig(name=f"{__name__}:brighten", config={"by": 50.0}),))
    seed = tf.constant([3, 0, 5], tf.int64)
    change = (augment(tf.zeros(SHAPE), seed, config) - tf.zeros(SHAPE)).numpy()
    assert 0 < change.min() == change.max() < 50
