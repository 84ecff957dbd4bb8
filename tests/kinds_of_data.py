"""Small datasets of different kinds, made of the example's pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

PICTURES = Path(__file__).parents[1] / "examples" / "data" / "pictures.parquet"
BALANCED = ("bug", "sea", "bird", "plant")


def balanced_folders(home: Path, each: int = 20, side: int = 32) -> Path:
    """Make a folder with a folder per class, as many pictures in each."""
    for name in BALANCED:
        (home / "photos" / name).mkdir(parents=True)
        for number, picture in zip(range(each), _pictures(name, side), strict=False):
            picture.save(home / "photos" / name / f"{number}.png")
    return home / "photos"


def imbalanced_csv(home: Path, counts: dict[str, int], side: int = 32) -> Path:
    """Make a CSV of paths and labels, beside a folder of pictures that says nothing of them."""
    (home / "scans").mkdir(parents=True)
    lines = ["path,label"]
    for name, count in counts.items():
        for number, picture in zip(range(count), _pictures(name, side), strict=False):
            picture.save(home / "scans" / f"{name[:2]}{number}.png")
            lines.append(f"scans/{name[:2]}{number}.png,{name}")
    (home / "scans.csv").write_text("\n".join(lines) + "\n")
    return home / "scans.csv"


def several_labels(home: Path, examples: int = 260, side: int = 48) -> Path:
    """Make a Parquet file of pictures with none to three drawings side by side, labelled with what they show."""
    random = np.random.default_rng(0)
    drawings = {name: list(_pictures(name, side // 2)) for name in ("clothing", "fruit_veg", "mammal", "vehicle")}
    images, labels = [], []
    for _ in range(examples):
        there = [
            name for name, chance in zip(drawings, (0.25, 0.35, 0.45, 0.55), strict=True) if random.random() < chance
        ]
        paper = Image.new("RGB", (side, side), tuple(random.integers(200, 256, 3).tolist()))
        for place, name in zip(random.permutation(4), there, strict=False):
            drawing = drawings[name][random.integers(len(drawings[name]))]
            paper.paste(drawing, ((place % 2) * (side // 2), (place // 2) * (side // 2)))
        buffer = io.BytesIO()
        paper.save(buffer, "PNG")
        images.append(buffer.getvalue())
        labels.append(there)
    home.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(images, pa.binary()), "labels": pa.array(labels, pa.list_(pa.string()))})
    pq.write_table(table, home / "scenes.parquet")
    return home / "scenes.parquet"


def _pictures(name: str, side: int) -> Iterator[Image.Image]:
    for row in pq.read_table(PICTURES, columns=["image", "label_name"]).to_pylist():
        if row["label_name"] == name:
            with Image.open(io.BytesIO(row["image"])) as picture:
                yield picture.convert("RGB").resize((side, side))
