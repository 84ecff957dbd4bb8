"""Writing a package's network in another format, and holding it against the package."""

from __future__ import annotations

import importlib
import json
import shutil
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rayft.data.picture import decode_picture
from rayft.errors import ExportError, RunFailed
from rayft.export import litert_file, onnx_file, saved_model
from rayft.export.graph import ENCODED, IMAGE, PROBABILITIES, Graph
from rayft.package.read import Package
from rayft.package.seal import file_digest

# Format -> the modules of the extra `export` that it needs, by the name of their distribution.
FORMATS = {
    "saved_model": {},
    "onnx": {"onnx": "onnx", "tf2onnx": "tf2onnx", "onnxruntime": "onnxruntime"},
    "litert": {"ai-edge-litert": "ai_edge_litert.interpreter"},
}
QUANTIZATIONS = ("float16", "int8-dynamic")
SIDECAR = "export.json"


def export(
    package: Package, kind: str, path: Path, quantize: str | None = None, source: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write a package's network to ``path`` and a record of it beside, both or none of them.

    What was written is run on the golden examples before it gets its name.

    Args:
        package: The opened package.
        kind: A format of ``FORMATS``.
        path: The file; for saved_model, the folder.
        quantize: One of ``QUANTIZATIONS``, for litert; None for float32. A float32 export may differ from the package
            by the package's own tolerance; what quantizing changes is stated, not judged.
        source: What else to record of where the package comes from.

    Returns:
        The content of the record.

    Raises:
        ExportError: The format, path or package does not suit, or the extra is not installed.
        RunFailed: What was written does not answer as the package, or cannot be converted.
    """
    _check(package, kind, path, quantize)
    facts = _facts(package, kind, quantize, source or {})
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    written, sidecar = temporary / path.name, sidecar_of(path, kind)
    try:
        answers = _write_and_answer(package, kind, written, quantize, facts)
        record = {
            **facts,
            **_compare(answers, package, quantize),
            "bytes": sum(file.stat().st_size for file in _files(written)),
            "sha256": {
                file.relative_to(written if written.is_dir() else temporary).as_posix(): file_digest(file)
                for file in _files(written)
            },
        }
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        beside = sidecar_of(written, kind)
        beside.write_text(text, encoding="utf-8")
        # The record first: whoever finds the model then finds the record too.
        if kind != "saved_model":
            beside.replace(sidecar)
        written.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def sidecar_of(path: Path, kind: str) -> Path:
    """Return where the record of an export lies: in its folder, or beside its file."""
    return path / SIDECAR if kind == "saved_model" else path.with_name(f"{path.name}.{SIDECAR}")


def _check(package: Package, kind: str, path: Path, quantize: str | None) -> None:
    if kind not in FORMATS:
        raise ExportError(f"The format is {kind!r}; {', '.join(FORMATS)} are allowed.", "Give one of them.")
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ExportError(f"quantize is {quantize!r}; {', '.join(QUANTIZATIONS)} are allowed.", "Give one of them.")
    if quantize is not None and kind != "litert":
        raise ExportError(f"quantize is {quantize!r}, but {kind} has no quantization here.", "Use --format litert.")
    for place in (path, sidecar_of(path, kind)):
        if place.exists():
            raise ExportError(f"{str(place)!r} exists.", "Remove it, or give another path.")
    views = package.record["preprocessing"].get("tta")
    if views is not None and kind != "saved_model" and (views["crops"] > 1 or views["views"]):
        raise ExportError(
            f"The package answers with test-time augmentation by crops or random views, which {kind} cannot express "
            "(mirroring it can).",
            "Use --format saved_model, or package the run without evaluate.tta.",
        )
    for distribution, module in FORMATS[kind].items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ExportError(
                f"The format {kind} needs {distribution}, which does not import: {error}.",
                "Install rayft's extra: pip install 'rayft[export]'.",
            ) from None


def _facts(package: Package, kind: str, quantize: str | None, source: dict[str, Any]) -> dict[str, Any]:
    shape = [None, *package.image_size, package.channels]
    image = {
        "name": IMAGE,
        "dtype": "float32",
        "shape": shape,
        "is": "pictures already decoded and resized as preprocessing says, values 0 to 255, not scaled",
    }
    encoded = {"name": ENCODED, "dtype": "string", "shape": [None], "is": "JPEG, PNG, GIF, BMP or WebP files"}
    inputs = {
        "saved_model": [
            {"signature": saved_model.ENCODED_SIGNATURE, **encoded},
            {"signature": saved_model.IMAGE_SIGNATURE, **image},
        ],
        "onnx": [image],
        "litert": [{"signature": litert_file.SIGNATURE, **image}],
    }
    return {
        "format": kind,
        "quantize": quantize,
        "source": {"name": package.record["name"], "identity": package.identity, **source},
        "labels": list(package.labels),
        "multi_label": package.multi_label,
        "inputs": inputs[kind],
        "output": {"name": PROBABILITIES, "dtype": "float32", "shape": [None, len(package.labels)]},
        "preprocessing": package.record["preprocessing"],
        "preprocessing_included": kind == "saved_model",
        "calibration": {**package.record.get("calibration", {}), "included": True},
        "licence": package.record["licence"],
        "versions": {name: version(name) for name in ("rayft", "tensorflow", "keras", *FORMATS[kind])},
    }


def _write_and_answer(
    package: Package, kind: str, path: Path, quantize: str | None, facts: dict[str, Any]
) -> list[np.ndarray]:
    encoded = list(package.golden.inputs)
    images = np.stack(
        [decode_picture(tf.constant(one), package.image_size, package.channels).numpy() for one in encoded]
    )
    graph = Graph(package)
    try:
        if kind == "saved_model":
            saved_model.write(graph, path)
            return saved_model.answer(path, encoded, images)
        if kind == "onnx":
            onnx_file.write(graph, path, len(package.labels), facts)
            return onnx_file.answer(path, images)
        litert_file.write(graph, path, quantize)
        return litert_file.answer(path, images)
    # Converters and runtimes raise errors of no common kind for what they do not know.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RunFailed(
            f"The network does not convert to {kind}: {type(error).__name__}: {reason}",
            "Use --format saved_model, which holds every network.",
        ) from error


def _compare(answers: list[np.ndarray], package: Package, quantize: str | None) -> dict[str, Any]:
    expected = package.golden.probabilities
    difference = max(float(np.abs(one - expected).max()) for one in answers)
    allowed = package.tolerance if quantize is None else 1.0
    # Not-a-number is no agreement, and max() may lose it.
    if not (difference <= allowed and all(np.isfinite(one).all() for one in answers)):
        raise RunFailed(
            f"What was written differs from the package by {difference:.2g} on its golden pictures; "
            f"{allowed:.0e} is allowed. It was removed.",
            "Check the package with `rayft models verify`; if it is good, use another format.",
        )
    same = min(int((one.argmax(axis=1) == expected.argmax(axis=1)).sum()) for one in answers)
    return {
        "golden": {
            "examples": len(expected),
            "difference": difference,
            "tolerance": package.tolerance if quantize is None else None,
            "same_best_label": same,
        }
    }


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
