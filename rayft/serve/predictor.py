"""From pictures to predictions, without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from rayft.data.picture import decode_picture
from rayft.data.scan import problem_of
from rayft.data.views import answer_views
from rayft.errors import DataError, PackageError
from rayft.evaluation.answers import PRESENT
from rayft.evaluation.calibration import as_probabilities
from rayft.model.blocks import split_model
from rayft.model.fold import fold_batch_norm
from rayft.package.read import Package, read_package
from rayft.package.record import RECORD_FILE
from rayft.package.seal import GOLDEN_FILE
from rayft.registry.locate import located


@dataclass(frozen=True)
class Prediction:
    """The answer to one picture.

    Attributes:
        label: Name of the most probable class.
        probability: Its probability, after temperature scaling.
        probabilities: float32 [classes], in the order of the package's labels.
        labels: The answer as a set: the label, or where pictures may have several, those above .5.
    """

    label: str
    probability: float
    probabilities: np.ndarray = field(repr=False)
    labels: tuple[str, ...] = ()


def load(model: str | PathLike[str], registry: str | PathLike[str] | None = None) -> Predictor:
    """Load the predictor of a package; arguments and errors are those of ``rayft.api.load``."""
    return Predictor(open_package(model, registry))


def open_package(model: str | PathLike[str], registry: str | PathLike[str] | None = None) -> Package:
    """Open what ``load`` loads."""
    with located(model, registry) as found:
        return read_package(found.folder)


class Predictor:
    """Holds a package's network, compiled.

    Args:
        package: The opened package.

    Attributes:
        labels: Names of the classes.
        record: Everything in package.json.
        identity: The sha256 of the package's manifest.
        multi_label: Whether a picture may have any number of the classes.
        image_size: Height and width of a decoded picture.
        image_shape: The same with the channels.
        max_pixels: Larger pictures are refused before they are decoded.
        parts: Prefix, None without one, and suffix as Keras models; copies for inference.
        prefix: Maps images float32 [b, H, W, C] in 0..255 to the activations behind the frozen blocks. Packages of
            one ``prefix_hash`` have the same. None where nothing was frozen, and with test-time augmentation.
        suffix: Maps what the prefix gives (images where there is none) to logits [b, classes].
        prefix_hash: Identifies the prefix; None without one.
    """

    def __init__(self, package: Package) -> None:
        self.labels = package.labels
        self.multi_label = package.multi_label
        self.record = package.record
        shape = (*package.image_size, package.channels)
        self.temperature = _temperature(package)
        self.identity = package.identity
        images = tf.TensorSpec((None, *shape), tf.float32)
        prefix, suffix = None, _without_last(package)
        if package.boundary is not None:
            # Copies, which keep neither each other's weights alive nor the package's.
            prefix, suffix = map(fold_batch_norm, split_model(suffix, package.boundary))
        self.parts: tuple[keras.Model | None, keras.Model] = (prefix, suffix)

        def logits(x: tf.Tensor) -> tf.Tensor:
            return suffix(x if prefix is None else prefix(x, training=False), training=False)

        views, several = package.record["preprocessing"].get("tta"), package.multi_label
        self.prefix: Callable[[tf.Tensor], tf.Tensor] | None = None
        self.suffix: Callable[[tf.Tensor], tf.Tensor]
        self.prefix_hash: str | None = None
        # Traced once for every batch size. Behind the prefix there is no picture left to take views of.
        if prefix is None or views is not None:
            self.suffix = _compiled(lambda x: answer_views(logits, x, views, multi_label=several), images)
        else:
            entry = suffix.inputs[0]
            self.prefix = _compiled(lambda x: prefix(x, training=False), images)
            self.suffix = _compiled(
                lambda x: suffix(x, training=False), tf.TensorSpec((None, *entry.shape[1:]), entry.dtype)
            )
            self.prefix_hash = package.record["prefix"]["hash"]
        self._golden, self._tolerance = package.golden, package.tolerance
        self.image_size, channels = package.image_size, package.channels
        self._decode = tf.function(
            lambda encoded: decode_picture(encoded, shape[:2], channels),
            input_signature=[tf.TensorSpec((), tf.string)],
        )
        self.image_shape: tuple[int, int, int] = shape
        self.max_pixels = package.max_pixels

    def adopt_prefix(self, other: Predictor) -> None:
        """Use the prefix of another predictor with the same ``prefix_hash``, and give one's own up."""
        if other.prefix_hash is None or other.prefix_hash != self.prefix_hash:
            raise ValueError(f"{self!r} and {other!r} have no prefix in common")
        self.parts, self.prefix = (other.parts[0], self.parts[1]), other.prefix

    @classmethod
    def load(cls, model: str | PathLike[str], registry: str | PathLike[str] | None = None) -> Predictor:
        """Do what ``load`` of this module does."""
        return load(model, registry)

    def replay_golden(self) -> float:
        """Answer the package's golden examples; returns the largest difference of a probability.

        Raises:
            PackageError: It is above what the package allows: this machine computes otherwise than evaluation.
        """
        answers = np.stack([answer.probabilities for answer in self.predict(self._golden.inputs)])
        differences = np.abs(answers - self._golden.probabilities).max(axis=1)
        worst = int(np.argmax(np.where(np.isnan(differences), np.inf, differences)))
        if not differences[worst] <= self._tolerance:
            raise PackageError(
                f"Golden example {worst} of {GOLDEN_FILE} differs by {differences[worst]:.2g} from evaluation; "
                f"{self._tolerance:.0e} is allowed.",
                "Use the versions that package.json names under lineage, or package the network anew.",
            )
        return float(differences[worst])

    def measure_latency_ms(self, repeats: int = 20) -> float:
        """Return the median time of one golden picture, from bytes to answer, in milliseconds."""
        picture = [self._golden.inputs[0]]
        # The first call traces the graph.
        self.predict(picture)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.predict(picture)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds) * 1e3)

    def predict(
        self,
        pictures: Sequence[bytes | str | PathLike[str]],
        batch_size: int = 32,
        names: Sequence[str] | None = None,
    ) -> list[Prediction]:
        """Answer pictures, decoded exactly as in training.

        Args:
            pictures: JPEG, PNG, GIF, BMP or WebP files: paths, or their contents.
            batch_size: Pictures per pass of the network; bounds the memory.
            names: What to call each picture in errors; its path or index otherwise.

        Raises:
            DataError: A picture cannot be read or decoded, or is too large; names it.
        """
        if isinstance(pictures, (bytes, str, PathLike)):
            raise DataError("`predict` got one picture, not a list of them.", "Put it into a list: predict([picture]).")
        answers: list[Prediction] = []
        for start in range(0, len(pictures), batch_size):
            batch = range(start, min(start + batch_size, len(pictures)))
            images = [self.decode(_content(pictures[i]), _name(pictures[i], names, i)) for i in batch]
            answers += self.predict_images(np.stack(images))
        return answers

    def predict_images(self, images: np.ndarray) -> list[Prediction]:
        """Answer decoded pictures in one pass.

        Args:
            images: float32 [n, H, W, C] in 0..255.

        Raises:
            DataError: The shape is another.
        """
        return [self._answer(row) for row in self.probabilities(self.logits(images))]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Turn logits into calibrated probabilities, float32 [n, classes]."""
        return as_probabilities(logits, self.temperature, multi_label=self.multi_label)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return what the network says before softmax and temperature, float [n, classes].

        Args:
            images: float32 [n, H, W, C] in 0..255.

        Raises:
            DataError: The shape is another.
        """
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise DataError(
                f"Images have the shape {list(images.shape)}; [n, {', '.join(map(str, self.image_shape))}] is allowed.",
                "Resize them, or give encoded pictures to `predict`.",
            )
        x = tf.constant(images, tf.float32)
        return self.suffix(x if self.prefix is None else self.prefix(x)).numpy()

    def _answer(self, probabilities: np.ndarray) -> Prediction:
        best = int(probabilities.argmax())
        label = self.labels[best]
        present = tuple(self.labels[i] for i in np.flatnonzero(probabilities > PRESENT))
        return Prediction(label, float(probabilities[best]), probabilities, present if self.multi_label else (label,))

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_shape))
        return f"Predictor({self.record.get('name')!r}, {len(self.labels)} classes, pictures of {size})"

    def decode(self, picture: bytes, name: str) -> np.ndarray:
        """Turn one encoded picture into float32 [H, W, C] in 0..255; may be called from many threads.

        Raises:
            DataError: It cannot be decoded, or has too many pixels; calls it ``name``.
        """
        problem = problem_of(picture, self.max_pixels)
        if problem is None:
            try:
                return self._decode(tf.constant(picture)).numpy()
            except tf.errors.InvalidArgumentError as error:
                problem = f"cannot be decoded: {error.message.splitlines()[0]}"
        raise DataError(f"Picture {name} {problem}.", "Give a JPEG, PNG, GIF, BMP or WebP picture.")


def _content(picture: bytes | str | PathLike[str]) -> bytes:
    if isinstance(picture, bytes):
        return picture
    try:
        return Path(picture).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"Cannot read the picture {str(picture)!r}: {reason}.", "Check the path.") from None


def _name(picture: bytes | str | PathLike[str], names: Sequence[str] | None, index: int) -> str:
    if names is not None:
        return repr(names[index])
    return f"number {index}" if isinstance(picture, bytes) else repr(str(picture))


def _temperature(package: Package) -> float:
    """The divisor of the logits; 1 for packages without calibration."""
    found = package.record.get("calibration", {}).get("temperature", 1.0)
    if not isinstance(found, (int, float)) or not 0 < found < float("inf"):
        raise PackageError(
            f"{package.folder / RECORD_FILE} holds the calibration.temperature {found!r}; above 0 is allowed.",
            "Write the package anew.",
        )
    return float(found)


def _without_last(package: Package) -> keras.Model:
    last = package.model.layers[-1]
    kind = keras.layers.Activation if package.multi_label else keras.layers.Softmax
    if not isinstance(last, kind):
        raise PackageError(
            f"The network of {package.folder} ends in {type(last).__name__}, not in {kind.__name__}.",
            "Write the package with rayft.",
        )
    return keras.Model(package.model.inputs[0], last.input)


def _compiled(function: Callable[..., tf.Tensor], spec: tf.TensorSpec) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compile a network with its weights as constants, which TensorFlow lays out once and not in every call."""
    traced = tf.function(function, input_signature=[spec], autograph=False).get_concrete_function()
    constant = convert_variables_to_constants_v2(traced)
    return lambda x: constant(tf.convert_to_tensor(x))[0]
