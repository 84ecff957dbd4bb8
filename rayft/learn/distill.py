"""Knowledge distillation: a trained network's answers as a part of the loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from rayft.config import DistillConfig
from rayft.errors import ConfigError
from rayft.model.weights_file import load_model
from rayft.serve.predictor import open_package


class Teacher:
    """A trained network that answers the student's pictures; nothing of it is trained.

    Attributes:
        temperature: Divides the logits of both.
        weight: Part of the loss that the teacher gives.
        variables: Its weights.
    """

    def __init__(self, config: DistillConfig, labels: tuple[str, ...]) -> None:
        """Load the teacher and match its outputs with the student's classes.

        Args:
            config: Where it lies, temperature, weight.
            labels: Names of the student's classes, in the order of its logits.

        Raises:
            ConfigError: Its classes are others; names the difference.
            PackageError: The package cannot be read.
            ModelError: The .keras file cannot be read.
        """
        self.temperature, self.weight = config.temperature, config.weight
        if config.teacher.endswith(".keras"):
            model, order = load_model(config.teacher), None
            self._check_count(config.teacher, model, labels)
        else:
            package = open_package(config.teacher)
            model, order = package.model, _match(config.teacher, package.labels, labels)
        model.trainable = False
        self.variables: list[Any] = list(model.weights)
        self._order = order
        self._network, self._gives_probabilities = _without_softmax(model)
        self._shape = tuple(model.inputs[0].shape[1:])

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Return logits [b, classes] in the student's order, up to a constant for each example.

        Args:
            images: The student's pictures, augmented, float [b, H, W, C] in 0..255; resized and brought to the
                teacher's channels here, and normalised inside of the teacher.
        """
        height, width, channels = self._shape
        if None not in (height, width) and images.shape[1:3] != (height, width):
            images = tf.image.resize(tf.cast(images, tf.float32), (height, width), antialias=True)
        if channels != images.shape[-1]:
            images = tf.image.grayscale_to_rgb(images) if channels == 3 else tf.image.rgb_to_grayscale(images)
        answer = tf.stop_gradient(self._network(tf.cast(images, tf.float32), training=False))
        if self._gives_probabilities:
            answer = tf.math.log(tf.maximum(answer, tf.experimental.numpy.finfo(answer.dtype.as_numpy_dtype).tiny))
        return answer if self._order is None else tf.gather(answer, self._order, axis=1)

    def _check_count(self, path: str, model: keras.Model, labels: tuple[str, ...]) -> None:
        outputs = model.outputs[0].shape[-1]
        if outputs != len(labels):
            raise ConfigError(
                f"train.distill.teacher {path} has {outputs} outputs; the data has {len(labels)} classes.",
                "Use a teacher that was trained on these classes.",
            )


def distillation_loss(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of each example.

    The factor keeps its gradient as large as that of the labels at any temperature.

    Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.

    Args:
        teacher: Logits [b, classes], a constant.
        student: Logits float [b, classes].
        temperature: T; larger gives softer answers.

    Returns:
        float [b], nats.
    """
    target = tf.nn.log_softmax(tf.cast(teacher, student.dtype) / temperature)
    answer = tf.nn.log_softmax(student / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(target) * (target - answer), axis=1)


def _match(path: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> list[int] | None:
    """For each of our classes its place among the teacher's outputs; None where the order is the same."""
    missing, extra = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    if missing or extra:
        parts = [
            f"{what} {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"
            for what, names in (("it lacks", missing), ("it has besides", extra))
            if names
        ]
        raise ConfigError(
            f"train.distill.teacher {path} has {len(theirs)} classes, the data {len(ours)}: {'; '.join(parts)}.",
            "Use a teacher that was trained on these classes.",
        )
    order = [theirs.index(label) for label in ours]
    return None if order == list(range(len(order))) else order


def _without_softmax(model: keras.Model) -> tuple[keras.Model, bool]:
    """The network up to its logits, where it ends in a Softmax layer, and whether it gives probabilities."""
    output = model.outputs[0]
    last = output._keras_history.operation
    if isinstance(last, keras.layers.Softmax):
        return keras.Model(model.inputs[0], last.input), False
    return model, getattr(last, "activation", None) is keras.activations.softmax
