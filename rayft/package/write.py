"""Writing a package."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.picture import decode_picture
from rayft.data.views import answer_views, tta_record
from rayft.errors import PackageError
from rayft.evaluation.calibration import as_probabilities
from rayft.model.blocks import split_model
from rayft.model.layers import portable
from rayft.package.card import model_card
from rayft.package.golden import TOLERANCES, Golden, write_golden
from rayft.package.model_file import MODEL_FILE
from rayft.package.read import check_labels, find_tensor
from rayft.package.record import FORMAT_VERSION, write_record
from rayft.package.seal import CARD_FILE, check_seal, seal


def write_package(
    folder: Path,
    *,
    model: keras.Model,
    config: RunConfig,
    labels: tuple[str, ...],
    image_size: tuple[int, int],
    licence: str,
    metrics: dict[str, float],
    dataset_fingerprint: str,
    blocks_frozen: list[str],
    golden: Golden,
    golden_split: str = "validation",
    examples: dict[str, int] | None = None,
    boundary: str | None = None,
    blocks: Sequence[dict[str, Any]] = (),
    calibration: dict[str, Any] | None = None,
    multi_label: bool = False,
) -> None:
    """Write a package under a temporary name and rename it; an older one there is replaced.

    Args:
        folder: The package's folder.
        model: Maps images [b, H, W, C] in 0..255 to logits [b, classes].
        config: The run that made it.
        labels: Names of the classes, in the order of the logits.
        image_size: Height and width in pixels.
        licence: Licence of the backbone's weights.
        metrics: Validation and test metrics.
        dataset_fingerprint: Identifies the data it was trained on.
        blocks_frozen: Names of the backbone's frozen blocks.
        golden: Examples with the calibrated probabilities that evaluation gave.
        golden_split: The split that they come from.
        examples: Number of examples of each split.
        boundary: Name of the layer whose output ends the frozen prefix.
        blocks: name, layers, parameters and frozen of each block and the head.
        calibration: temperature, and figures before and after it; 1 where not given.
        multi_label: Whether a picture may have any number of the classes.

    Raises:
        PackageError: Labels and outputs differ in number, or the network does not answer the golden examples
            as evaluation did.
    """
    check_labels(labels, model, str(folder))
    sealed = _with_probabilities(model, multi_label)
    calibration = calibration or {"temperature": 1.0}
    # A temperature below 1 magnifies what rounding does to the logits.
    tolerance = TOLERANCES[config.train.precision] / min(1.0, calibration["temperature"])
    preprocessing = {
        "image_size": list(image_size),
        "channels": config.data.channels,
        "max_pixels": config.data.max_pixels,
        "resize": "bilinear, antialiased, aspect not kept",
        "transparency": "over white",
        "value_range": [0, 255],
    }
    views = tta_record(config)
    logits = _logits(sealed, golden, image_size, config.data.channels, views, multi_label)
    answers = as_probabilities(logits, calibration["temperature"], multi_label=multi_label)
    _require_agreement(answers, golden.probabilities, tolerance)
    record = {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "signature": {
            "inputs": {
                "encoded": {"dtype": "string", "shape": [None]},
                "image": {"dtype": "float32", "shape": [None, *image_size, config.data.channels]},
            },
            "outputs": {"probabilities": {"dtype": "float32", "shape": [None, len(labels)]}},
        },
        "labels": list(labels),
        "multi_label": multi_label,
        "backbone": {"name": config.model.backbone, "weights": config.model.weights},
        "freeze_depth": config.freeze.depth,
        "blocks_frozen": blocks_frozen,
        "prefix": None
        if boundary is None
        else {"boundary": boundary, "hash": _prefix_hash(sealed, boundary, preprocessing)},
        "preprocessing": {**preprocessing, "tta": views},
        "blocks": list(blocks),
        "calibration": calibration,
        "metrics": metrics,
        "data": {"examples": examples or {}},
        "golden": {"examples": len(golden.inputs), "split": golden_split, "tolerance": tolerance},
        "lineage": {
            "config": config.model_dump(mode="json"),
            "dataset_fingerprint": dataset_fingerprint,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("rayft", "keras", "tensorflow", "ray")},
            },
            "git_commit": _git_commit(),
        },
        "licence": licence,
    }
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        sealed.save(temporary / MODEL_FILE)
        write_golden(temporary, golden)
        write_record(temporary, record)
        (temporary / CARD_FILE).write_text(model_card(record), encoding="utf-8")
        seal(temporary)
        # What cannot be opened again must not be written: layers of one's own, for example.
        check_seal(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _with_probabilities(model: keras.Model, multi_label: bool) -> keras.Model:
    """Append a float32 softmax or, for several labels, a sigmoid, in plain Keras layers alone."""
    plain = portable(model)
    last = (
        keras.layers.Activation("sigmoid", dtype="float32", name="probabilities")
        if multi_label
        else keras.layers.Softmax(dtype="float32", name="probabilities")
    )
    return keras.Model(plain.inputs[0], last(plain.outputs[0]), name=plain.name)


def _logits(
    model: keras.Model,
    golden: Golden,
    image_size: tuple[int, int],
    channels: int,
    views: dict[str, Any] | None,
    multi_label: bool,
) -> np.ndarray:
    """Answer the golden examples as a reader of the package would, float [n, classes]."""
    images = tf.stack([decode_picture(tf.constant(encoded), image_size, channels) for encoded in golden.inputs])
    # Small probabilities are 0 in float32, where a temperature could not raise them.
    before = keras.Model(model.inputs[0], model.layers[-1].input)
    return answer_views(lambda view: before(view, training=False), images, views, multi_label=multi_label).numpy()


def _require_agreement(given: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    difference = np.abs(given - expected).max()
    # Not-a-number is no agreement.
    if not difference <= tolerance:
        raise PackageError(
            f"The network to package differs from evaluation by {difference:.2g} on the golden examples; "
            f"{tolerance:.0e} is allowed.",
            "This is a bug of a layer that behaves otherwise once it is saved; take it out of the network.",
        )


def _prefix_hash(model: keras.Model, boundary: str, preprocessing: dict[str, Any]) -> str:
    """Identify the frozen prefix: packages with the same hash compute the same boundary activations.

    Of two networks built in one process, equal layers have other names; those do not count, but what each call takes
    from which does.
    """
    prefix, _ = split_model(model, find_tensor(model, boundary))
    total = hashlib.sha256(json.dumps(preprocessing, sort_keys=True).encode())
    number: dict[int, str] = {}
    seen: dict[int, int] = {}
    for depth in sorted(prefix._nodes_by_depth, reverse=True):
        for node in prefix._nodes_by_depth[depth]:
            operation = node.operation
            config = {
                name: value for name, value in operation.get_config().items() if name not in ("trainable", "name")
            }
            inputs = [number[id(tensor)] for tensor in node.input_tensors]
            given = [node.arguments.args, node.arguments.kwargs] if node.arguments is not None else []
            call = [seen.setdefault(id(operation), len(seen)), type(operation).__name__, config, inputs, given]
            total.update(json.dumps(call, sort_keys=True, default=_plain).encode())
            for index, tensor in enumerate(node.output_tensors):
                number[id(tensor)] = f"{len(number)}.{index}"
            for weight in operation.get_weights() if isinstance(operation, keras.layers.Layer) else ():
                total.update(np.ascontiguousarray(weight).tobytes())
    return total.hexdigest()


def _plain(value: Any) -> str:
    """Put into words what an argument of a call is; tensors are counted apart."""
    if isinstance(value, keras.KerasTensor):
        return "tensor"
    return np.asarray(value).tobytes().hex() if hasattr(value, "__array__") else repr(value)


def _git_commit() -> str | None:
    """Name the commit of the working directory, with -dirty after changes; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
