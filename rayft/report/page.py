"""The frame that every page shares: sections, tables, figures, one file without links to others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

# Text stays readable on it, on light and on dark paper.
STRONGEST_SHADE = 0.55


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        anchor: Its id; letters, digits and hyphens.
        title: Its heading.
        body: What ``figure``, ``table`` and the like give, joined by ``join``.
    """

    anchor: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Tile:
    """A figure that is read first."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A table's cell with a background.

    Attributes:
        text: What it says.
        shade: Strength of the background, 0 to 1.
        title: Said where a pointer rests.
    """

    text: str
    shade: float = 0.0
    title: str = ""


def render_page(title: str, subtitle: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> str:
    """Return a page as HTML; empty sections are left out.

    Args:
        title: Heading of the page.
        subtitle: One line below it.
        tiles: The figures that are read first.
        sections: In order.
    """
    from rayft import __version__

    return _template("page.html").render(
        title=title,
        subtitle=subtitle,
        tiles=tiles,
        sections=[section for section in sections if section.body],
        version=__version__,
        written=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    )


def figure(svg: str, *, alt: str, caption: str = "") -> Markup:
    """Frame an SVG of ``rayft.report.figures``.

    Args:
        svg: Trusted markup.
        alt: What the figure shows, in a sentence; read aloud in its place.
        caption: Text below it.
    """
    return part("figure", svg=Markup(svg), alt=alt, caption=caption)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str,
    compact: bool = False,
) -> Markup:
    """Show rows; the first cell of each is its heading, numbers stand to the right.

    Args:
        columns: Headings.
        rows: As many cells each: text, numbers, ``Cell`` or markup; None shows as a dash, a float with three decimals.
        caption: What the table lists.
        compact: Narrow cells, as of a matrix.
    """
    shown = [[_show(cell) for cell in row] for row in rows]
    return part("table", columns=columns, rows=shown, caption=caption, compact=compact)


def facts(pairs: Iterable[tuple[str, str | Markup]]) -> Markup:
    """List names with their values."""
    return part("facts", pairs=list(pairs))


def paragraph(text: str | Markup) -> Markup:
    """Set plain text as a paragraph."""
    return Markup("<p>{}</p>").format(text)


def heading(text: str) -> Markup:
    """Head a part of a section."""
    return Markup("<h3>{}</h3>").format(text)


def notices(texts: Iterable[str]) -> Markup:
    """List remarks that a reader should not miss; nothing where there are none."""
    return part("notices", texts=list(texts))


def fold(summary: str, body: Markup, *, is_open: bool = False) -> Markup:
    """Hide a long part behind a line."""
    return part("fold", summary=summary, body=body, is_open=is_open)


def code(text: str) -> Markup:
    """Set text as it is, in a typewriter's font."""
    return Markup('<pre tabindex="0"><code>{}</code></pre>').format(text)


def join(*parts: Markup) -> Markup:
    """Put parts of a section one below the other."""
    return Markup("\n").join(part for part in parts if part)


def _show(cell: str | float | int | Cell | Markup | None) -> dict[str, object]:
    if isinstance(cell, Cell):
        return {
            "text": cell.text,
            "is_number": True,
            "shade": round(STRONGEST_SHADE * cell.shade, 3),
            "title": cell.title,
        }
    text = "-" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else cell
    is_number = cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))
    return {"text": text if isinstance(text, Markup) else str(text), "is_number": is_number, "shade": 0, "title": ""}


def part(macro: str, **values: object) -> Markup:
    """Fill in a macro of ``templates/parts.html``."""
    return Markup(getattr(_template("parts.html").module, macro)(**values))


def _template(name: str) -> Template:
    return _ENVIRONMENT.get_template(name)


_ENVIRONMENT = Environment(
    loader=PackageLoader("rayft.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
