"""Opening a package."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from rayft.errors import PackageError
from rayft.package.golden import Golden, read_golden
from rayft.package.model_file import MODEL_FILE
from rayft.package.record import RECORD_FILE, read_record
from rayft.package.seal import check_seal


@dataclass(frozen=True, eq=False)
class Package:
    """An opened package.

    Attributes:
        folder: Where it lies.
        model: Maps float32 images [b, H, W, C] in 0..255 to probabilities float32 [b, classes].
        boundary: KerasTensor between the frozen prefix and the rest; None where nothing was frozen.
        labels: Names of the classes, in the order of the outputs.
        multi_label: Whether a picture may have any number of them; each probability is then one of its own.
        image_size: Height and width in pixels.
        channels: Colour channels, 1 or 3.
        max_pixels: Larger pictures are refused before they are decoded.
        golden: Examples with their expected probabilities, calibrated.
        tolerance: Largest difference from those that is allowed.
        record: Everything in package.json.
        identity: The sha256 of the manifest.
    """

    folder: Path
    model: keras.Model
    boundary: Any | None
    labels: tuple[str, ...]
    multi_label: bool
    image_size: tuple[int, int]
    channels: int
    max_pixels: int
    golden: Golden
    tolerance: float
    record: dict[str, Any]
    identity: str


def read_package(folder: str | Path) -> Package:
    """Check and open a local package folder.

    Raises:
        PackageError: A file is missing, changed, foreign or damaged, or a newer rayft wrote it.
    """
    folder = Path(folder)
    identity = check_seal(folder)
    record = read_record(folder)
    try:
        labels, multi_label = tuple(map(str, record["labels"])), bool(record["multi_label"])
        height, width = map(int, record["preprocessing"]["image_size"])
        channels, max_pixels = (int(record["preprocessing"][name]) for name in ("channels", "max_pixels"))
        tolerance = float(record["golden"]["tolerance"])
        boundary = None if record["prefix"] is None else str(record["prefix"]["boundary"])
    except (KeyError, TypeError, ValueError) as error:
        raise PackageError(
            f"{folder / RECORD_FILE} lacks a proper entry: {type(error).__name__} {error}.", "Write the package anew."
        ) from None
    model = _read_model(folder / MODEL_FILE)
    check_labels(labels, model, str(folder))
    return Package(
        folder,
        model,
        None if boundary is None else find_tensor(model, boundary),
        labels,
        multi_label,
        (height, width),
        channels,
        max_pixels,
        read_golden(folder, len(labels)),
        tolerance,
        record,
        identity,
    )


def find_tensor(model: keras.Model, name: str) -> Any:
    """Return the last output, within ``model``, of its layer or operation ``name``.

    Raises:
        PackageError: There is none.
    """
    for nodes in (model._nodes_by_depth[depth] for depth in sorted(model._nodes_by_depth)):
        for node in nodes:
            if node.operation.name == name:
                return node.output_tensors[0]
    raise PackageError(f"{RECORD_FILE} names the boundary {name!r}, which the network lacks.", "Write it anew.")


def check_labels(labels: tuple[str, ...], model: keras.Model, name: str) -> None:
    """Raise PackageError where labels and outputs differ in number."""
    num_outputs = model.outputs[0].shape[-1]
    if len(labels) != num_outputs:
        raise PackageError(
            f"{name}: {len(labels)} labels, but the network has {num_outputs} outputs.",
            "Package the network with the labels it was trained on.",
        )


def _read_model(path: Path) -> keras.Model:
    try:
        # Safe mode refuses layers that carry code.
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PackageError(
            f"{path} does not load: {type(error).__name__}: {reason}", "Copy or write the package anew."
        ) from None
