"""The parts of a page that follow from answers where a picture has one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from rayft.evaluation.measure import ClassRow, class_rows, confusion_matrix, reliability, wilson
from rayft.evaluation.predictions import Predictions
from rayft.report.answered import Answered, Pictures, every_class, interval
from rayft.report.matrix import MATRIX_CLASSES, shaded_map, shaded_matrix
from rayft.report.page import Cell, Section, Tile, join, paragraph, table
from rayft.report.reliability import Words, reliability_section
from rayft.report.thumbnails import Picture, gallery

_PAIRS = 10
_MISTAKES = 24


def show_answers(predictions: Predictions, calibration: Mapping[str, Any], pictures: Pictures | None) -> Answered:
    """Return the tile and the sections that follow from predictions; none without any.

    Args:
        predictions: Of all splits; the test split is shown, or else the first.
        calibration: temperature, and reason where it is 1.
        pictures: Returns the encoded pictures of examples, by name; None where they cannot be read.
    """
    if not predictions.splits:
        return Answered([], [])
    shown = predictions.of("test" if "test" in predictions.splits else predictions.splits[0])
    return Answered(
        [accuracy_tile(shown)],
        [
            accuracy_section(predictions),
            confusion_section(shown),
            classes_section(shown),
            calibration_section(shown, calibration),
            mistakes_section(shown, pictures),
        ],
    )


def accuracy_tile(predictions: Predictions) -> Tile:
    """Return the accuracy of one split with its interval."""
    right, count = int((predictions.labels == predictions.predicted).sum()), len(predictions.labels)
    low, high = wilson(right, count)
    return Tile(
        f"{predictions.splits[0]} accuracy",
        f"{right / count:.3f}",
        f"95 %: {low:.3f} to {high:.3f}, {count:,} examples",
    )


def accuracy_section(predictions: Predictions) -> Section:
    """List the accuracy of each split, with its interval, beside that of always naming the commonest class."""
    rows = []
    for split in predictions.splits:
        part = predictions.of(split)
        right, count = int((part.labels == part.predicted).sum()), len(part.labels)
        low, high = wilson(right, count)
        most = int(np.bincount(part.labels).max())
        rows.append([split, count, right, right / count, f"{low:.3f} to {high:.3f}", most / count])
    return Section(
        "accuracy",
        "Accuracy",
        table(
            ["Split", "Examples", "Right", "Accuracy", "95 % interval (Wilson)", "Commonest class"],
            rows,
            caption="Accuracy of the packaged weights; the last column is what always naming the commonest class gives",
        ),
    )


def confusion_section(predictions: Predictions) -> Section:
    """Show which class is taken for which: a matrix of counts, or a picture of it for many classes."""
    classes, split = predictions.classes, predictions.splits[0]
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(classes))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(classes) <= MATRIX_CLASSES:
        caption = f"Rows: label; columns: answer; {split} split. The shade is the part of the row."
        matrix = shaded_matrix(counts, share, classes, "answered as", caption)
    else:
        right = np.diag(counts).sum() / counts.sum()
        alt = (
            f"Map of {len(counts)} by {len(counts)} classes, labels downwards, answers to the right; {right:.0%} lies "
            "on the diagonal."
        )
        caption = (
            f"{split} split; the strength is the square root of the part of the row. Classes are in the order below."
        )
        matrix = shaded_map("confusion", share, "answer", "label", alt=alt, caption=caption)
    return Section("confusion", "Confusion matrix", join(matrix, _pairs(counts, classes, split)))


def classes_section(predictions: Predictions) -> Section:
    """List precision, recall and F1 of each class."""
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))
    note = paragraph(
        "Precision: part of the answers with this class that are right. Recall: part of this class's examples that are "
        "found. The intervals hold 95 % (Wilson); wide ones mean too few examples to tell classes apart."
    )
    tables = every_class(class_rows(counts, predictions.classes), predictions.splits[0], _class_table)
    return Section("classes", "Classes", join(note, tables))


def calibration_section(predictions: Predictions, calibration: Mapping[str, Any]) -> Section:
    """Show confidence against accuracy, before and after temperature scaling.

    Args:
        predictions: Of one split.
        calibration: temperature, and reason where it is 1.
    """
    is_right, split = predictions.labels == predictions.predicted, predictions.splits[0]
    before = reliability(predictions.raw_confidence, is_right)
    after = reliability(predictions.confidence, is_right)
    words = Words("confidence", "part that is right", "examples", "Below the diagonal: over-confident.")
    return reliability_section(before, after, split, predictions.temperature, calibration.get("reason"), words)


def mistakes_section(predictions: Predictions, pictures: Pictures | None) -> Section:
    """Show the wrong answers of which the network was most certain.

    Args:
        predictions: Of one split.
        pictures: Returns the encoded pictures of examples, by name; None where they cannot be read.
    """
    wrong = np.flatnonzero(predictions.labels != predictions.predicted)
    chosen = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:_MISTAKES]
    split = predictions.splits[0]
    if not len(chosen):
        return Section("mistakes", "Mistakes", paragraph(f"No answer of the {split} split is wrong."))
    names = predictions.names[chosen].tolist()
    told = [
        (f"{predictions.classes[predictions.predicted[i]]}, {predictions.confidence[i]:.2f}", predictions.labels[i])
        for i in chosen
    ]
    lead = paragraph(
        f"Of {len(wrong):,} wrong answers of the {split} split, those of which the network was most certain."
    )
    if pictures is None:
        rows = [[name, answer, predictions.classes[label]] for name, (answer, label) in zip(names, told, strict=True)]
        return Section(
            "mistakes", "Mistakes", join(lead, table(["Example", "Answer", "Label"], rows, caption="Wrong answers"))
        )
    shown = [
        Picture(encoded, answer, f"label: {predictions.classes[label]}", name)
        for encoded, name, (answer, label) in zip(pictures(names), names, told, strict=True)
    ]
    return Section("mistakes", "Mistakes", join(lead, gallery(shown)))


def _pairs(counts: np.ndarray, classes: tuple[str, ...], split: str) -> Markup:
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:_PAIRS]
    rows = []
    for label, answer in zip(*np.unravel_index(order, errors.shape), strict=True):
        if count := int(errors[label, answer]):
            rows.append([classes[label], classes[answer], count, Cell(f"{count / counts[label].sum():.0%}")])
    if not rows:
        return Markup()
    return table(
        ["Label", "Answered as", "Times", "Of the label"], rows, caption=f"The commonest confusions, {split} split"
    )


def _class_table(rows: Sequence[ClassRow], caption: str) -> Markup:
    shown = [
        [
            row.name,
            row.support,
            row.precision,
            interval(row.precision, row.precision_interval),
            row.recall,
            interval(row.recall, row.recall_interval),
            row.f1,
        ]
        for row in rows
    ]
    columns = ["Class", "Support", "Precision", "95 % interval", "Recall", "95 % interval", "F1"]
    return table(columns, shown, caption=caption)
