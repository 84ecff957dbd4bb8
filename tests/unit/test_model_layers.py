import keras
import numpy as np
import tensorflow as tf

from rayft.model.fold import fold_batch_norm
from rayft.model.layers import (
    BatchNormalization,
    Dropout,
    ReplicaBatch,
    portable,
    replica_batch,
    worker_dependent_layers,
    worker_invariant,
)

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(6, 5, 5, 3)).astype("float32")


def place(position, weight=None, step=0, gather=lambda values: values[None]):
    weight = np.ones(len(position)) if weight is None else weight
    return ReplicaBatch(
        position=tf.constant(position, tf.int32),
        weight=tf.constant(weight, tf.float32),
        step=tf.constant(step, tf.int64),
        seed=5,
        global_batch_size=6,
        gather=gather,
    )


def small_network():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization(epsilon=0.1)(x))
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    skip = keras.layers.Conv2D(8, 1)(x)
    x = keras.layers.Add()([keras.layers.BatchNormalization(center=False)(skip), skip])
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(x))
    model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
    return model


def test_dropout_of_the_slices_is_the_slice_of_the_dropout():
    layer = Dropout(0.4, name="drop")
    with replica_batch(place(range(6), step=3)):
        whole = layer(IMAGES, training=True).numpy()
    for rows in ([0, 1], [2, 3, 4], [5]):
        with replica_batch(place(rows, step=3)):
            np.testing.assert_array_equal(layer(IMAGES[rows], training=True).numpy(), whole[rows])


def test_dropout_keeps_the_right_share_scaled_and_changes_with_the_step():
    layer = Dropout(0.4, name="drop")
    ones = np.ones((6, 5000), "float32")
    with replica_batch(place(range(6))):
        first = layer(ones, training=True).numpy()
    with replica_batch(place(range(6), step=1)):
        second = layer(ones, training=True).numpy()
    assert abs((first > 0).mean() - 0.6) < 0.01
    np.testing.assert_allclose(first[first > 0], 1 / 0.6, rtol=1e-6)
    assert (first != second).any()


def test_whole_branches_are_dropped_with_a_noise_shape():
    layer = Dropout(0.5, noise_shape=(None, 1, 1, 1), name="drop")
    with replica_batch(place(range(6))):
        kept = layer(np.ones_like(IMAGES), training=True).numpy() > 0
    assert {bool(example.all()) for example in kept} == {True, False}
    assert all(example.all() or not example.any() for example in kept)


def test_batch_statistics_leave_padding_out():
    layer = BatchNormalization()
    layer.build(IMAGES.shape)
    padded = np.concatenate([IMAGES, 100 * np.ones_like(IMAGES[:2])])
    with replica_batch(place([0, 1, 2, 3, 4, 5, 5, 5], weight=[1] * 6 + [0] * 2)):
        outputs = layer(padded, training=True).numpy()[:6]
    plain = keras.layers.BatchNormalization()
    np.testing.assert_allclose(outputs, plain(IMAGES, training=True).numpy(), atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance.numpy(), plain.moving_variance.numpy(), rtol=1e-5)


def test_statistics_joined_from_two_replicas_are_those_of_the_batch():
    layer = BatchNormalization()
    layer.build(IMAGES.shape)
    parts = []

    def collect(values):
        parts.append(values)
        return tf.stack([values])

    for rows in ([0, 1, 2, 3], [4, 5]):
        with replica_batch(place(rows, gather=collect)):
            layer(IMAGES[rows], training=True)
    joined = BatchNormalization()
    joined.build(IMAGES.shape)
    with replica_batch(place([0, 1, 2, 3], gather=lambda values: tf.stack(parts))):
        mean, variance = joined._moments(tf.constant(IMAGES[:4]), None)
    np.testing.assert_allclose(mean, IMAGES.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(variance, IMAGES.var(axis=(0, 1, 2)), rtol=1e-5)


def test_the_clone_computes_the_same_and_turns_back_into_plain_keras():
    model = small_network()
    model.layers[1].trainable = False
    clone = worker_invariant(model)
    images = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(clone(images), model(images))
    assert not clone.layers[1].trainable
    back = portable(clone)
    np.testing.assert_array_equal(back(images), model(images))
    assert {type(layer).__module__.split(".")[0] for layer in back.layers} == {"keras"}


def test_layers_that_draw_from_process_state_are_named():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.GaussianNoise(0.1, name="noise"), keras.layers.Dropout(0.1)]
    )
    assert worker_dependent_layers(worker_invariant(model)) == ["noise"]


def test_folding_batch_norm_keeps_outputs_and_removes_the_layers():
    model = small_network()
    folded = fold_batch_norm(model)
    images = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(folded(images), model(images, training=False), rtol=1e-4)
    # The third BatchNormalization shares its convolution with the skip connection and must stay.
    kinds = [type(layer) for layer in folded.layers]
    assert kinds.count(keras.layers.BatchNormalization) == 1
