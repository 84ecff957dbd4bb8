"""The page of a package measured on a dataset."""

from __future__ import annotations

from typing import Any

from rayft.evaluation.predictions import Predictions
from rayft.report.page import Section, Tile, facts, render_page
from rayft.report.sections import (
    Pictures,
    accuracy_section,
    accuracy_tile,
    calibration_section,
    classes_section,
    confusion_section,
    mistakes_section,
)


def evaluation_page(
    result: dict[str, Any], record: dict[str, Any], predictions: Predictions, pictures: Pictures | None
) -> str:
    """Return the page as HTML.

    Args:
        result: What ``rayft.serve.evaluate.evaluate`` returns.
        record: The content of package.json.
        predictions: Of one split.
        pictures: Returns the encoded pictures of examples, by name; None where they cannot be read.
    """
    metrics = result["metrics"]
    lineage = record["lineage"]
    return render_page(
        f"{record['name']}: evaluation",
        f"{result['model']} on {result['data']}, {result['split']} split, {len(record['labels'])} classes",
        [
            accuracy_tile(predictions),
            Tile("macro F1", f"{metrics['macro_f1']:.3f}"),
            Tile("log-loss", f"{metrics['log_loss']:.3f}", f"{result['calibrated']['log_loss']:.3f} calibrated"),
            Tile("calibration error", f"{metrics['ece']:.3f}", f"{result['calibrated']['ece']:.3f} calibrated"),
        ],
        [
            accuracy_section(predictions),
            confusion_section(predictions),
            classes_section(predictions),
            calibration_section(predictions, record.get("calibration", {})),
            mistakes_section(predictions, pictures),
            Section(
                "lineage",
                "Lineage",
                facts(
                    [
                        ("Package", result["model"]),
                        ("Data", result["data"]),
                        ("Trained on", lineage["config"]["data"]["source"]),
                        ("Fingerprint there", lineage["dataset_fingerprint"]),
                        ("Backbone", f"{record['backbone']['name']}, weights {record['backbone']['weights']}"),
                        ("Git commit", lineage["git_commit"] or "none: not in a checkout"),
                    ]
                ),
            ),
        ],
    )
