"""The package: a folder that holds a trained network and all it takes to use it."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from rayft.config import RunConfig
from rayft.data.views import tta_record
from rayft.errors import PackageError
from rayft.model.layers import portable

FORMAT_VERSION = 1
MODEL_FILE = "model.keras"
RECORD_FILE = "package.json"


@dataclass(frozen=True)
class Package:
    """An opened package.

    Attributes:
        folder: Where it lies.
        model: Maps float32 images [b, H, W, C] in 0..255 to probabilities float32 [b, classes].
        labels: Names of the classes, in the order of the outputs.
        multi_label: Whether a picture may have any number of them; each probability is then one of its own.
        image_size: Height and width in pixels.
        channels: Colour channels, 1 or 3.
        max_pixels: Larger pictures are refused before they are decoded.
        record: Everything in package.json.
    """

    folder: Path
    model: keras.Model
    labels: tuple[str, ...]
    multi_label: bool
    image_size: tuple[int, int]
    channels: int
    max_pixels: int
    record: dict[str, Any]


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
        blocks: name, layers, parameters and frozen of each block and the head.
        calibration: temperature, and figures before and after it; 1 where not given.
        multi_label: Whether a picture may have any number of the classes.

    Raises:
        PackageError: Labels and outputs differ in number.
    """
    _check_labels(labels, model, str(folder))
    record = {
        "format_version": FORMAT_VERSION,
        "name": config.name,
        "signature": {
            "inputs": {"image": {"dtype": "float32", "shape": [None, *image_size, config.data.channels]}},
            "outputs": {"probabilities": {"dtype": "float32", "shape": [None, len(labels)]}},
        },
        "labels": list(labels),
        "multi_label": multi_label,
        "backbone": {"name": config.model.backbone, "weights": config.model.weights},
        "freeze_depth": config.freeze.depth,
        "blocks_frozen": blocks_frozen,
        "blocks": list(blocks),
        "calibration": calibration or {"temperature": 1.0},
        "preprocessing": {
            "image_size": list(image_size),
            "channels": config.data.channels,
            "max_pixels": config.data.max_pixels,
            "resize": "bilinear, antialiased, aspect not kept",
            "transparency": "over white",
            "value_range": [0, 255],
            "tta": tta_record(config),
        },
        "metrics": metrics,
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
        _with_probabilities(model, multi_label).save(temporary / MODEL_FILE)
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (temporary / RECORD_FILE).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_package(folder: str | Path) -> Package:
    """Open a local package folder.

    Raises:
        PackageError: A file is missing or damaged, or a newer rayft wrote it.
    """
    folder = Path(folder)
    record = _read_record(folder / RECORD_FILE)
    try:
        labels = tuple(map(str, record["labels"]))
        multi_label = bool(record.get("multi_label", False))
        height, width = map(int, record["preprocessing"]["image_size"])
        channels, max_pixels = (int(record["preprocessing"][name]) for name in ("channels", "max_pixels"))
    except (KeyError, TypeError, ValueError) as error:
        raise PackageError(
            f"{folder / RECORD_FILE} lacks a proper entry: {type(error).__name__} {error}.", "Write the package anew."
        ) from None
    model = _read_model(folder / MODEL_FILE)
    _check_labels(labels, model, str(folder))
    return Package(folder, model, labels, multi_label, (height, width), channels, max_pixels, record)


def _with_probabilities(model: keras.Model, multi_label: bool) -> keras.Model:
    """Append a float32 softmax or, for several labels, a sigmoid, in plain Keras layers alone."""
    plain = portable(model)
    last = (
        keras.layers.Activation("sigmoid", dtype="float32", name="probabilities")
        if multi_label
        else keras.layers.Softmax(dtype="float32", name="probabilities")
    )
    return keras.Model(plain.inputs[0], last(plain.outputs[0]), name=plain.name)


def _check_labels(labels: tuple[str, ...], model: keras.Model, name: str) -> None:
    num_outputs = model.outputs[0].shape[-1]
    if len(labels) != num_outputs:
        raise PackageError(
            f"{name}: {len(labels)} labels, but the network has {num_outputs} outputs.",
            "Package the network with the labels it was trained on.",
        )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(
            f"{str(path.parent)!r} is no package: cannot read {path.name} ({error.strerror}).",
            "Give the folder of a package, or of a finished run.",
        ) from None
    except ValueError as error:
        raise PackageError(f"{path} is damaged: {error}.", "Copy or write the package anew.") from None
    found = record.get("format_version") if isinstance(record, dict) else None
    if not isinstance(found, int) or found < 1:
        raise PackageError(f"{path} is damaged: format_version is {found!r}.", "Copy or write the package anew.")
    if found > FORMAT_VERSION:
        raise PackageError(
            f"{path} has format version {found}; this rayft reads up to {FORMAT_VERSION}.", "Install a newer rayft."
        )
    return record


def _read_model(path: Path) -> keras.Model:
    if not path.is_file():
        raise PackageError(f"The package lacks {path}.", "Copy or write the package anew.")
    try:
        # Safe mode refuses layers that carry code.
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PackageError(
            f"{path} does not load: {type(error).__name__}: {reason}", "Copy or write the package anew."
        ) from None


def _git_commit() -> str | None:
    """Name the commit of the working directory, with -dirty after changes; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
