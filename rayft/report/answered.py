"""What pages show of the answers of a network, whatever the kind of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from markupsafe import Markup

from rayft.report.page import Section, Tile, fold, join

_SHOWN_CLASSES = 40
_WORST_CLASSES = 20

Pictures = Callable[[Sequence[str]], list[bytes]]


@dataclass(frozen=True)
class Answered:
    """Parts of a page.

    Attributes:
        tiles: The figures that are read first.
        sections: In order.
    """

    tiles: list[Tile]
    sections: list[Section]


class HasF1(Protocol):
    """Figures of one class."""

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where it is not defined."""


Row = TypeVar("Row", bound=HasF1)


def every_class(rows: list[Row], split: str, tabulate: Callable[[list[Row], str], Markup]) -> Markup:
    """Show all classes in a table; of many, those with the lowest F1, and the others folded away."""
    everything = tabulate(rows, f"Every class, {split} split")
    if len(rows) <= _SHOWN_CLASSES:
        return everything
    worst = sorted(rows, key=lambda row: (row.f1 is None, row.f1 or 0.0))[:_WORST_CLASSES]
    lowest = tabulate(worst, f"The {len(worst)} classes with the lowest F1, {split} split")
    return join(lowest, fold(f"All {len(rows)} classes", everything))


def interval(value: float | None, bounds: tuple[float, float] | None) -> str:
    """Write the bounds of a figure; a dash where it is not defined."""
    return "-" if value is None or bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}"
