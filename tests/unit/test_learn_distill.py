"""Distillation: the loss in closed form, and teachers that fit or do not."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_examples import golden_examples, picture
from test_learn_step import CLASSES, SIDE, backbone, make_batch, make_config  # noqa: F401

from rayft.config import DistillConfig, parse_config
from rayft.errors import ConfigError
from rayft.learn.distill import Teacher, distillation_loss
from rayft.learn.state import frozen_variables
from rayft.learn.step import Task
from rayft.model.network import build_network
from rayft.package.write import write_package

LABELS = ("ant", "bee", "cat")


@pytest.fixture
def network():
    """Logits of pictures of side 4: a pool and a dense layer."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4, 4, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(pooled))


def package_of(folder, network, labels):
    write_package(
        folder,
        model=network,
        config=parse_config({"data": {"source": "x"}}),
        labels=labels,
        image_size=(4, 4),
        licence="none",
        metrics={},
        dataset_fingerprint="0",
        blocks_frozen=[],
        golden=golden_examples(network, [picture(4)], (4, 4)),
    )
    return str(folder)


def test_the_loss_is_that_of_hinton_in_closed_form():
    # Teacher (0, T ln 3) has the soft answer (1/4, 3/4) at T, the student (0, 0) has (1/2, 1/2):
    # KL = ln 2 - H = 1/4 ln(1/2) + 3/4 ln(3/2).
    for temperature in (1.0, 4.0):
        loss = distillation_loss(
            tf.constant([[0.0, temperature * math.log(3)]]), tf.constant([[0.0, 0.0]]), temperature
        )
        kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
        np.testing.assert_allclose(loss, [temperature**2 * kl], rtol=1e-6)


def test_its_gradient_at_a_high_temperature_is_that_of_matching_logits():
    # Section 2.1: for zero-mean logits dC/dz -> (z - v) / (N T^2), times T^2 here.
    teacher, student = tf.constant([[1.0, -1.0, 0.0]]), tf.Variable([[0.5, 0.5, -1.0]])
    with tf.GradientTape() as tape:
        loss = distillation_loss(teacher, student, 500.0)
    np.testing.assert_allclose(tape.gradient(loss, student), (student - teacher) / 3, atol=2e-3)


def test_a_step_mixes_labels_and_teacher_by_weight(backbone, network, tmp_path):  # noqa: F811
    config = make_config(
        backbone,
        train={"distill": {"teacher": package_of(tmp_path / "teacher", network, LABELS), "weight": 0.25}},
    )
    teacher = Teacher(config.train.distill, LABELS)
    task = Task(config, build_network(config, CLASSES), total_steps=10, teacher=teacher)
    batch = make_batch()
    logits = task.network.model(batch["image"])
    labels = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)
    small = tf.image.resize(batch["image"], (4, 4), antialias=True)
    expected = 0.75 * labels + 0.25 * distillation_loss(network(small), logits, 2.0)
    before = [np.array(variable) for variable in teacher.variables]
    loss = float(tf.function(task.run_step)(batch))
    assert loss == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-5)
    for now, then in zip(teacher.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(now), then)
    assert {id(one) for one in teacher.variables} <= {id(one) for one in frozen_variables(task)}


def test_a_teachers_classes_are_brought_into_the_students_order(network, tmp_path):
    folder = package_of(tmp_path / "teacher", network, ("cat", "ant", "bee"))
    images = make_batch()["image"][:, :4, :4]
    answer = Teacher(DistillConfig(teacher=folder), LABELS).logits(images)
    np.testing.assert_allclose(answer, network(images).numpy()[:, [1, 2, 0]], rtol=1e-5)


@pytest.mark.parametrize("softmax", [False, True])
def test_a_keras_file_is_a_teacher_with_or_without_softmax(network, tmp_path, softmax):
    dense = network.layers[-1]
    images = make_batch()["image"][:, :4, :4]
    expected = tf.nn.log_softmax(network(images))
    if softmax:
        dense.activation = keras.activations.softmax
    network.save(tmp_path / "teacher.keras")
    answer = Teacher(DistillConfig(teacher=str(tmp_path / "teacher.keras")), LABELS).logits(images)
    np.testing.assert_allclose(tf.nn.log_softmax(answer), expected, rtol=1e-4, atol=1e-5)


def test_other_classes_are_refused_by_name(network, tmp_path):
    folder = package_of(tmp_path / "teacher", network, ("ant", "bee", "dog"))
    with pytest.raises(ConfigError, match="it lacks cat; it has besides dog"):
        Teacher(DistillConfig(teacher=folder), LABELS)
    network.save(tmp_path / "teacher.keras")
    with pytest.raises(ConfigError, match="has 3 outputs; the data has 2 classes"):
        Teacher(DistillConfig(teacher=str(tmp_path / "teacher.keras")), LABELS[:2])
