"""From pictures to predictions, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rayft.data.picture import decode_picture
from rayft.data.scan import problem_of
from rayft.data.views import answer_views
from rayft.errors import DataError, PackageError
from rayft.evaluation.calibration import log_probabilities
from rayft.package import RECORD_FILE, Package, read_package
from rayft.serve.answers import PRESENT
from rayft.storage import Storage


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


def load(model: str | PathLike[str]) -> Predictor:
    """Load the predictor of a package or of a finished run.

    Args:
        model: Folder of the package or of the run; a local path or a pyarrow filesystem URI.

    Raises:
        PackageError: There is no package, or it is damaged.
        StorageError: The place cannot be read.
    """
    return Predictor(open_package(model))


def open_package(model: str | PathLike[str]) -> Package:
    """Open what ``load`` loads."""
    storage = Storage.open(model)
    folder = next((place for place in (storage, storage / "package") if (place / RECORD_FILE).exists()), None)
    if folder is None:
        raise PackageError(
            f"{storage} holds no package: neither {RECORD_FILE} nor package/{RECORD_FILE} is there.",
            "Give the folder of a package, or of a finished run.",
        )
    if folder.is_local:
        return read_package(folder.root)
    with tempfile.TemporaryDirectory() as local:
        folder.download_folder(local)
        return read_package(local)


class Predictor:
    """Holds a package's network, compiled.

    Args:
        package: The opened package.
    """

    def __init__(self, package: Package) -> None:
        self.labels = package.labels
        self.multi_label = package.multi_label
        self.record = package.record
        shape = (*package.image_size, package.channels)
        self.temperature = _temperature(package)
        model = _without_softmax(package)
        # Packages of earlier versions know nothing of views.
        views = package.record["preprocessing"].get("tta")
        # Traced once, for every batch size.
        self._network = tf.function(
            lambda images: answer_views(lambda view: model(view, training=False), images, views),
            input_signature=[tf.TensorSpec((None, *shape), tf.float32)],
        )
        self._decode = tf.function(
            lambda encoded: decode_picture(encoded, package.image_size, package.channels),
            input_signature=[tf.TensorSpec((), tf.string)],
        )
        self._shape = shape
        self.image_size = package.image_size
        self._max_pixels = package.max_pixels

    @classmethod
    def load(cls, model: str | PathLike[str]) -> Predictor:
        """Do what ``load`` of this module does."""
        return load(model)

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
            images = [self._decode_one(_content(pictures[i]), _name(pictures[i], names, i)) for i in batch]
            answers += self.predict_images(np.stack(images))
        return answers

    def predict_images(self, images: np.ndarray) -> list[Prediction]:
        """Answer decoded pictures in one pass.

        Args:
            images: float32 [n, H, W, C] in 0..255.

        Raises:
            DataError: The shape is another.
        """
        logits = self.logits(images)
        if self.multi_label:
            probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        else:
            probabilities = np.exp(log_probabilities(logits, self.temperature))
        return [self._answer(row) for row in probabilities.astype(np.float32)]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return what the network says before softmax and temperature, float [n, classes].

        Args:
            images: float32 [n, H, W, C] in 0..255.

        Raises:
            DataError: The shape is another.
        """
        if images.ndim != 4 or images.shape[1:] != self._shape:
            raise DataError(
                f"Images have the shape {list(images.shape)}; [n, {', '.join(map(str, self._shape))}] is allowed.",
                "Resize them, or give encoded pictures to `predict`.",
            )
        return self._network(tf.constant(images, tf.float32)).numpy()

    def _answer(self, probabilities: np.ndarray) -> Prediction:
        best = int(probabilities.argmax())
        label = self.labels[best]
        present = tuple(self.labels[i] for i in np.flatnonzero(probabilities > PRESENT))
        return Prediction(label, float(probabilities[best]), probabilities, present if self.multi_label else (label,))

    def __repr__(self) -> str:
        size = "x".join(map(str, self._shape))
        return f"Predictor({self.record.get('name')!r}, {len(self.labels)} classes, pictures of {size})"

    def _decode_one(self, picture: bytes, name: str) -> np.ndarray:
        problem = problem_of(picture, self._max_pixels)
        if problem is not None:
            raise DataError(f"Picture {name} {problem}.", "Give a JPEG, PNG, GIF, BMP or WebP picture.")
        return self._decode(tf.constant(picture)).numpy()


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


def _without_softmax(package: Package) -> keras.Model:
    last = package.model.layers[-1]
    kind = keras.layers.Activation if package.multi_label else keras.layers.Softmax
    if not isinstance(last, kind):
        raise PackageError(
            f"The network of {package.folder} ends in {type(last).__name__}, not in {kind.__name__}.",
            "Write the package with rayft.",
        )
    return keras.Model(package.model.inputs[0], last.input)
