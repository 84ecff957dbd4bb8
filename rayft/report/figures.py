"""Plots as SVG text whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# matplotlib draws in these; the page's style sheet says what they look like.
INK, GRID = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304")
_VARIABLES = {INK: "currentColor", GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # Text stays text: smaller, found by search, read aloud.
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Line:
    """One curve of a plot.

    Attributes:
        name: In the legend.
        x: [n].
        y: [n]; None or NaN leaves a gap.
        is_dotted: Marks each point, where there are few.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    is_dotted: bool = False


def lines(
    name: str,
    curves: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    mark_x: float | None = None,
    mark_name: str = "",
) -> str:
    """Plot curves over a common axis.

    Args:
        name: Tells this figure's ids from those of others on the page.
        curves: At most four.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        log: Logarithmic vertical axis.
        mark_x: Where to draw a vertical line.
        mark_name: What that line means.
    """

    def plot(axes: Any) -> None:
        for colour, curve in zip(SERIES, curves, strict=False):
            y = np.array([np.nan if value is None else value for value in curve.y], float)
            marker = "o" if curve.is_dotted and len(curve.x) <= 60 else None
            axes.plot(curve.x, y, color=colour, label=curve.name, marker=marker, markersize=3.5)
        if mark_x is not None:
            axes.axvline(mark_x, color=INK, linewidth=1, linestyle=":", label=mark_name)
        if log:
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(curves) > 1 or mark_x is not None:
            axes.legend(loc="best", fontsize=9)

    return draw(name, plot, size=(5.2, 3.2))


def bars(name: str, labels: Sequence[str], values: Sequence[float], *, x_label: str, texts: Sequence[str]) -> str:
    """Plot horizontal bars, the first on top, with a text at the end of each."""

    def plot(axes: Any) -> None:
        places = np.arange(len(labels))
        axes.barh(places, values, color=SERIES[0], height=0.65)
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)
        # Room for the texts; without any length to show, an axis around 0 would show numbers of no meaning.
        axes.set_xlim(0, 1.18 * max(values, default=0) or 1)
        for place, value, text in zip(places, values, texts, strict=True):
            axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=9)

    return draw(name, plot, size=(6.4, 0.7 + 0.32 * len(labels)))


def draw(name: str, plot: Callable[[Any], None], *, size: tuple[float, float]) -> str:
    """Return the SVG of what ``plot`` draws on the axes given to it.

    Args:
        name: Tells this figure's ids from those of others on the page.
        plot: Draws with ``INK``, ``GRID`` and ``SERIES`` alone, so that the page can recolour it.
        size: Width and height, inches.
    """
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        plot(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(text.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """Keep the svg element alone, with the page's colours and ids of its own, scaled by the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (?:width|height|version|xmlns(?::xlink)?)="[^"]*"', "", head)
    # HTML reads only some names with a colon; a plain href means the same.
    svg = f'{head} aria-hidden="true">{rest}'.replace("xlink:href", "href")
    for reference in ('id="', 'href="#', "url(#"):
        svg = svg.replace(reference, f"{reference}{name}-")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.strip()
