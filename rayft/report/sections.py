"""The parts of a page that follow from predictions alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from rayft.evaluation.measure import ClassRow, Reliability, class_rows, confusion_matrix, reliability, wilson
from rayft.evaluation.predictions import Predictions
from rayft.report.figures import GRID, INK, SERIES, draw
from rayft.report.page import Cell, Section, Tile, figure, fold, join, paragraph, table
from rayft.report.thumbnails import Picture, gallery

# More classes than this make a matrix of numbers unreadable.
MATRIX_CLASSES = 24
_SHOWN_CLASSES = 40
_WORST_CLASSES = 20
_PAIRS = 10
_MISTAKES = 24

Pictures = Callable[[Sequence[str]], list[bytes]]


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
    matrix = _matrix(counts, classes, split) if len(classes) <= MATRIX_CLASSES else _map(counts, split)
    return Section("confusion", "Confusion matrix", join(matrix, _pairs(counts, classes, split)))


def classes_section(predictions: Predictions) -> Section:
    """List precision, recall and F1 of each class."""
    split = predictions.splits[0]
    counts = confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))
    rows = class_rows(counts, predictions.classes)
    note = paragraph(
        "Precision: part of the answers with this class that are right. Recall: part of this class's examples that are "
        "found. The intervals hold 95 % (Wilson); wide ones mean too few examples to tell classes apart."
    )
    if len(rows) <= _SHOWN_CLASSES:
        return Section("classes", "Classes", join(note, _class_table(rows, f"Every class, {split} split")))
    worst = sorted(rows, key=lambda row: (row.f1 is None, row.f1 or 0.0))[:_WORST_CLASSES]
    return Section(
        "classes",
        "Classes",
        join(
            note,
            _class_table(worst, f"The {len(worst)} classes with the lowest F1, {split} split"),
            fold(f"All {len(rows)} classes", _class_table(rows, f"Every class, {split} split")),
        ),
    )


def calibration_section(predictions: Predictions, calibration: dict[str, Any]) -> Section:
    """Show confidence against accuracy, before and after temperature scaling.

    Args:
        predictions: Of one split.
        calibration: temperature, and reason where it is 1.
    """
    is_right, split = predictions.labels == predictions.predicted, predictions.splits[0]
    before = reliability(predictions.raw_confidence, is_right)
    after = reliability(predictions.confidence, is_right)
    temperature, reason = predictions.temperature, calibration.get("reason")
    told = (
        f"No temperature was fitted: {reason}. Probabilities are those of the network."
        if reason
        else f"Logits are divided by the temperature {temperature:.3f}, fitted on the validation split. On the {split} "
        f"split the expected calibration error goes from {before.ece:.3f} to {after.ece:.3f}."
    )
    alt = (
        f"Reliability diagram of the {split} split. Calibration error {before.ece:.3f} before and {after.ece:.3f} "
        "after temperature scaling; a curve below the diagonal is over-confident."
    )
    return Section(
        "calibration",
        "Calibration",
        join(
            paragraph(told),
            figure(
                _reliability_diagram(before, after),
                alt=alt,
                caption="Below the diagonal: over-confident. The larger a point, the more examples.",
            ),
            fold("The bins in figures", _bins(before, after, split)),
        ),
    )


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


def _matrix(counts: np.ndarray, classes: tuple[str, ...], split: str) -> Markup:
    part = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        [
            name,
            *(
                Cell(str(count) if count else "", float(share), f"{name} answered as {other}: {count}")
                for other, count, share in zip(classes, counts[index].tolist(), part[index], strict=True)
            ),
        ]
        for index, name in enumerate(classes)
    ]
    caption = f"Rows: label; columns: answer; {split} split. The shade is the part of the row."
    return table(["Label", *classes], rows, caption=caption, compact=True)


def _map(counts: np.ndarray, split: str) -> Markup:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def plot(axes: Any) -> None:
        # One colour, its strength the share: readable on light and on dark paper.
        pixels = np.empty((*share.shape, 4))
        pixels[..., :3] = np.array([70, 140, 220]) / 255
        pixels[..., 3] = np.sqrt(share)
        axes.imshow(pixels, interpolation="nearest", aspect="equal")
        axes.grid(visible=False)
        axes.set_xlabel("answer, number of the class")
        axes.set_ylabel("label, number of the class")

    svg = draw("confusion", plot, size=(5.6, 5.6))
    right = np.diag(counts).sum() / counts.sum()
    alt = (
        f"Map of {len(counts)} by {len(counts)} classes, labels downwards, answers to the right; {right:.0%} lies on "
        "the diagonal."
    )
    caption = f"{split} split; the strength is the square root of the part of the row. Classes are in the order below."
    return figure(svg, alt=alt, caption=caption)


def _pairs(counts: np.ndarray, classes: tuple[str, ...], split: str) -> Markup:
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    order = np.argsort(-errors, axis=None, kind="stable")[:_PAIRS]
    rows = []
    for label, answer in zip(*np.unravel_index(order, errors.shape), strict=True):
        if count := int(errors[label, answer]):
            rows.append([classes[label], classes[answer], count, f"{count / counts[label].sum():.0%}"])
    if not rows:
        return Markup()
    return table(
        ["Label", "Answered as", "Times", "Of the label"], rows, caption=f"The commonest confusions, {split} split"
    )


def _class_table(rows: Sequence[ClassRow], caption: str) -> Markup:
    def interval(value: float | None, bounds: tuple[float, float]) -> str:
        return "-" if value is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"

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


def _reliability_diagram(before: Reliability, after: Reliability) -> str:
    def plot(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
        largest = max(before.examples.max(), after.examples.max())
        pairs = (("before", before, SERIES[1]), ("after temperature scaling", after, SERIES[0]))
        for name, found, colour in pairs:
            filled = found.examples > 0
            axes.plot(found.confidence[filled], found.accuracy[filled], color=colour, label=name, linewidth=1.4)
            # The area of a point is its number of examples.
            sizes = 8 + 90 * found.examples[filled] / largest
            axes.scatter(found.confidence[filled], found.accuracy[filled], s=sizes, color=colour, edgecolors=GRID)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("part that is right")
        axes.legend(loc="lower right", fontsize=9)

    return draw("reliability", plot, size=(5.2, 4.2))


def _bins(before: Reliability, after: Reliability, split: str) -> Markup:
    count, rows = len(before.examples), []

    def cells(found: Reliability, index: int) -> list[int | float | None]:
        if not found.examples[index]:
            return [0, None, None]
        return [int(found.examples[index]), float(found.confidence[index]), float(found.accuracy[index])]

    for index in range(count):
        name = f"{index / count:.2f} to {(index + 1) / count:.2f}"
        rows.append([name, *cells(before, index), *cells(after, index)])
    columns = ["Confidence", "Before: examples", "confidence", "accuracy", "After: examples", "confidence", "accuracy"]
    return table(columns, rows, caption=f"Bins of confidence, {split} split")
