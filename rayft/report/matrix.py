"""Classes against classes, as numbers or as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from rayft.report.figures import draw
from rayft.report.page import Cell, figure, table

# More classes than this make a matrix of numbers unreadable.
MATRIX_CLASSES = 24


def shaded_matrix(counts: np.ndarray, share: np.ndarray, classes: tuple[str, ...], verb: str, caption: str) -> Markup:
    """Show counts [classes, classes] over backgrounds of the strength ``share``, 0 to 1.

    Args:
        counts: Numbers to show; zeros are left out.
        share: Strength of each cell.
        classes: Names of rows and columns.
        verb: Between row and column, where a pointer rests.
        caption: What the matrix shows.
    """
    rows = [
        [
            name,
            *(
                Cell(str(count) if count else "", float(strength), f"{name} {verb} {other}: {count}")
                for other, count, strength in zip(classes, counts[index].tolist(), share[index], strict=True)
            ),
        ]
        for index, name in enumerate(classes)
    ]
    return table(["Label", *classes], rows, caption=caption, compact=True)


def shaded_map(name: str, share: np.ndarray, x_label: str, y_label: str, *, alt: str, caption: str) -> Markup:
    """Draw ``share`` [classes, classes], 0 to 1, for more classes than a matrix of numbers holds."""

    def plot(axes: Any) -> None:
        # One colour, its strength the share: readable on light and on dark paper.
        pixels = np.empty((*share.shape, 4))
        pixels[..., :3] = np.array([70, 140, 220]) / 255
        pixels[..., 3] = np.sqrt(share)
        axes.imshow(pixels, interpolation="nearest", aspect="equal")
        axes.grid(visible=False)
        axes.set_xlabel(f"{x_label}, number of the class")
        axes.set_ylabel(f"{y_label}, number of the class")

    return figure(draw(name, plot, size=(5.6, 5.6)), alt=alt, caption=caption)
