"""The parts of a page that follow from answers where a picture may have several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from rayft.evaluation.measure import wilson
from rayft.evaluation.set_figures import LabelRow, SetFigures, SetMistake
from rayft.report.answered import Answered, Pictures, every_class, interval
from rayft.report.matrix import MATRIX_CLASSES, shaded_map, shaded_matrix
from rayft.report.page import Cell, Section, Tile, heading, join, paragraph, table
from rayft.report.reliability import Words, reliability_section
from rayft.report.thumbnails import Picture, gallery

_PAIRS = 10


def show_sets(figures: Mapping[str, SetFigures], calibration: Mapping[str, Any], pictures: Pictures | None) -> Answered:
    """Return the tiles and the sections that follow from answers; none without any.

    Args:
        figures: Of each split; the test split is shown, or else the first.
        calibration: temperature, and reason where it is 1.
        pictures: Returns the encoded pictures of examples, by name; None where they cannot be read.
    """
    if not figures:
        return Answered([], [])
    shown = figures.get("test") or next(iter(figures.values()))
    words = Words("probability", "part that is there", "labels", "Below the diagonal: said too often.")
    return Answered(
        _tiles(shown),
        [
            _accuracy(list(figures.values())),
            _classes(shown),
            _together(shown),
            reliability_section(
                shown.before, shown.after, shown.split, shown.temperature, calibration.get("reason"), words
            ),
            _mistakes(shown, pictures),
        ],
    )


def _tiles(shown: SetFigures) -> list[Tile]:
    low, high = wilson(shown.right, shown.examples)
    return [
        Tile(f"{shown.split} mean AP", f"{shown.mean_average_precision():.3f}", f"{shown.examples:,} examples"),
        Tile("whole set right", f"{shown.right / shown.examples:.3f}", f"95 %: {low:.3f} to {high:.3f}"),
    ]


def _accuracy(figures: Sequence[SetFigures]) -> Section:
    rows = []
    for each in figures:
        low, high = wilson(each.right, each.examples)
        rows.append(
            [
                each.split,
                each.examples,
                int(each.labelled.sum()) / each.examples,
                each.mean_average_precision(),
                each.macro_f1(),
                each.right / each.examples,
                f"{low:.3f} to {high:.3f}",
            ]
        )
    columns = ["Split", "Examples", "Labels each", "Mean AP", "Macro F1", "Whole set right", "95 % interval (Wilson)"]
    return Section("accuracy", "Accuracy", table(columns, rows, caption="The packaged weights on each split"))


def _classes(shown: SetFigures) -> Section:
    note = paragraph(
        "A class is answered above probability .5. Precision: part of its answers that are right. Recall: part of the "
        "examples with it that are found. AP: average precision of the examples in the order of its probability; at "
        "random it would be the prevalence. The intervals hold 95 %: Wilson for precision and recall, bootstrap over "
        "examples for F1 and AP."
    )

    def tabulate(rows: list[LabelRow], caption: str) -> Markup:
        columns = ["Class", "Examples", "Prevalence", "Precision", "95 %", "Recall", "95 %", "F1", "95 %", "AP", "95 %"]
        return table(columns, [_cells(row, shown.examples) for row in rows], caption=caption)

    return Section("classes", "Classes", join(note, every_class(shown.rows(), shown.split, tabulate)))


def _cells(row: LabelRow, examples: int) -> list[Any]:
    return [
        row.name,
        row.support,
        Cell(f"{row.support / examples:.1%}"),
        row.precision,
        interval(row.precision, row.precision_interval),
        row.recall,
        interval(row.recall, row.recall_interval),
        row.f1,
        interval(row.f1, row.f1_interval),
        row.average_precision,
        interval(row.average_precision, row.average_precision_interval),
    ]


def _together(shown: SetFigures) -> Section:
    """Show which labels occur together, and which are claimed wrongly beside which."""
    counts, classes = shown.together, shown.classes
    share = counts / np.maximum(shown.labelled[:, None], 1)
    if len(classes) <= MATRIX_CLASSES:
        caption = (
            f"Examples of the {shown.split} split with both labels; on the diagonal, with the label. The shade is the "
            "part of the row's label."
        )
        matrix = shaded_matrix(counts, share, classes, "together with", caption)
    else:
        alt = f"Map of which of {len(classes)} labels occur together, by the part of the label downwards."
        caption = f"{shown.split} split; the strength is the square root of the part of the label downwards."
        matrix = shaded_map("together", share, "label beside it", "label", alt=alt, caption=caption)
    return Section("together", "Labels together", join(matrix, _claimed(shown)))


def _claimed(shown: SetFigures) -> Markup:
    order = np.argsort(-shown.claimed, axis=None, kind="stable")[:_PAIRS]
    rows = []
    for there, answered in zip(*np.unravel_index(order, shown.claimed.shape), strict=True):
        if count := int(shown.claimed[there, answered]):
            part = count / shown.labelled[there]
            rows.append([shown.classes[there], shown.classes[answered], count, Cell(f"{part:.0%}")])
    if not rows:
        return Markup()
    return table(
        ["Label", "Wrongly answered with it", "Times", "Of the label"],
        rows,
        caption=f"Classes that are seen beside a label where they are not, {shown.split} split",
    )


def _mistakes(shown: SetFigures, pictures: Pictures | None) -> Section:
    wrong = int((shown.predicted - shown.both).sum())
    missed = int((shown.labelled - shown.both).sum())
    parts = [
        heading("Answered and not there"),
        _list(
            f"Of {wrong:,} wrongly answered labels of the {shown.split} split, those of which the network was most "
            "certain.",
            shown,
            shown.false_answers,
            pictures,
        ),
        heading("There and missed"),
        _list(
            f"Of {missed:,} labels of the {shown.split} split that were not answered, those that it thought least "
            "probable.",
            shown,
            shown.missed,
            pictures,
        ),
    ]
    return Section("mistakes", "Mistakes", join(*parts))


def _list(lead: str, shown: SetFigures, mistakes: list[SetMistake], pictures: Pictures | None) -> Markup:
    if not mistakes:
        return paragraph(f"None in the {shown.split} split.")
    names = [mistake.name for mistake in mistakes]
    told = [
        (
            f"{shown.classes[mistake.label]}, {mistake.probability:.2f}",
            ", ".join(shown.classes[label] for label in mistake.labels) or "none",
        )
        for mistake in mistakes
    ]
    if pictures is None:
        rows = [[name, *texts] for name, texts in zip(names, told, strict=True)]
        return join(paragraph(lead), table(["Example", "Class, probability", "Labels"], rows, caption=lead))
    shown_pictures = [
        Picture(encoded, answer, f"labels: {labels}", name)
        for encoded, name, (answer, labels) in zip(pictures(names), names, told, strict=True)
    ]
    return join(paragraph(lead), gallery(shown_pictures))
