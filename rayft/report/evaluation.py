"""The page of a package measured on a dataset."""

from __future__ import annotations

from typing import Any

from rayft.report.answered import Answered
from rayft.report.page import Section, Tile, facts, render_page


def evaluation_page(result: dict[str, Any], record: dict[str, Any], answered: Answered) -> str:
    """Return the page as HTML.

    Args:
        result: What ``rayft.serve.evaluate.evaluate`` returns.
        record: The content of package.json.
        answered: Of one split.
    """
    metrics = result["metrics"]
    lineage = record["lineage"]
    return render_page(
        f"{record['name']}: evaluation",
        f"{result['model']} on {result['data']}, {result['split']} split, {len(record['labels'])} classes",
        [
            *answered.tiles,
            Tile("macro F1", f"{metrics['macro_f1']:.3f}"),
            Tile("log-loss", f"{metrics['log_loss']:.3f}", f"{result['calibrated']['log_loss']:.3f} calibrated"),
            Tile("calibration error", f"{metrics['ece']:.3f}", f"{result['calibrated']['ece']:.3f} calibrated"),
        ],
        [
            *answered.sections,
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
