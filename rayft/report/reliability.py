"""The section that compares probabilities with what came true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rayft.evaluation.measure import Reliability
from rayft.report.figures import GRID, INK, SERIES, draw
from rayft.report.page import Section, figure, fold, join, paragraph, table


@dataclass(frozen=True)
class Words:
    """How a reliability diagram calls its axes, what it counts, and what its diagonal means."""

    x: str
    y: str
    counted: str
    meaning: str


def reliability_section(
    before: Reliability, after: Reliability, split: str, temperature: float, reason: str | None, words: Words
) -> Section:
    """Show probabilities against what came true, before and after temperature scaling.

    Args:
        before: Of the network's own probabilities.
        after: Of the scaled ones.
        split: That they are of.
        temperature: Between the two.
        reason: Why it is 1, or None.
        words: What the page calls all this.
    """
    told = (
        f"No temperature was fitted: {reason}. Probabilities are those of the network."
        if reason
        else f"Logits are divided by the temperature {temperature:.3f}, fitted on the validation split. On the {split} "
        f"split the expected calibration error goes from {before.ece:.3f} to {after.ece:.3f}."
    )
    alt = (
        f"Reliability diagram of the {split} split. Calibration error {before.ece:.3f} before and {after.ece:.3f} "
        f"after temperature scaling. {words.meaning}"
    )
    caption = f"{words.meaning} The larger a point, the more {words.counted}."
    return Section(
        "calibration",
        "Calibration",
        join(
            paragraph(told),
            figure(_diagram(before, after, words), alt=alt, caption=caption),
            fold("The bins in figures", _bins(before, after, split, words)),
        ),
    )


def _diagram(before: Reliability, after: Reliability, words: Words) -> str:
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
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(words.x)
        axes.set_ylabel(words.y)
        axes.legend(loc="lower right", fontsize=9)

    return draw("reliability", plot, size=(5.2, 4.2))


def _bins(before: Reliability, after: Reliability, split: str, words: Words) -> Markup:
    count, rows = len(before.examples), []

    def cells(found: Reliability, index: int) -> list[int | float | None]:
        if not found.examples[index]:
            return [0, None, None]
        return [int(found.examples[index]), float(found.confidence[index]), float(found.accuracy[index])]

    for index in range(count):
        name = f"{index / count:.2f} to {(index + 1) / count:.2f}"
        rows.append([name, *cells(before, index), *cells(after, index)])
    columns = [words.x.capitalize(), f"Before: {words.counted}", words.x, words.y]
    columns += [f"After: {words.counted}", words.x, words.y]
    return table(columns, rows, caption=f"Bins of {words.x}, {split} split")
