"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from PIL import Image, ImageOps

from rayft.report.page import part

SIDE = 160
_QUALITY = 78


@dataclass(frozen=True)
class Picture:
    """A picture with what is said below it.

    Attributes:
        encoded: Content of a picture file.
        title: First line.
        text: Second line.
        name: Its file or row.
    """

    encoded: bytes
    title: str
    text: str
    name: str


def gallery(pictures: Sequence[Picture]) -> Markup:
    """Show pictures side by side."""
    items = []
    for picture in pictures:
        content, width, height = thumbnail(picture.encoded)
        items.append(
            {
                "uri": f"data:image/jpeg;base64,{base64.b64encode(content).decode()}",
                "alt": f"{picture.name}: {picture.title}",
                "width": width,
                "height": height,
                "title": picture.title,
                "text": picture.text,
                "name": picture.name,
            }
        )
    return part("gallery", pictures=items)


def thumbnail(encoded: bytes) -> tuple[bytes, int, int]:
    """Return a JPEG of at most 160 pixels a side, over white, upright, with its width and height."""
    with Image.open(io.BytesIO(encoded)) as opened:
        picture = ImageOps.exif_transpose(opened)
        picture.thumbnail((SIDE, SIDE))
        picture = picture.convert("RGBA")
    paper = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(paper, picture).convert("RGB")
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue(), *flat.size
