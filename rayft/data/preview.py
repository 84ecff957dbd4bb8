"""A contact sheet of what the network sees of some training pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from rayft.config import AugmentConfig, RunConfig
from rayft.data.dataset import Dataset
from rayft.data.mix import with_partners
from rayft.data.order import batch_positions, steps_per_epoch
from rayft.data.picture import decode_picture
from rayft.data.training_batches import train_slices

_CELL = 184
_GAP = 10
_TEXT = 34
_TITLE = 52
_INK, _MUTED, _PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)
_NAMED_PARTS = 2


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet.

    Attributes:
        image: float32 [H, W, C] in 0..255.
        head: First line below it.
        text: Second line.
    """

    image: np.ndarray
    head: str
    text: str


def choose_examples(dataset: Dataset, count: int) -> list[int]:
    """Return indices into the training split: the first of each class, then the second of each, ..."""
    labels = dataset.split("train")["label"].to_numpy()
    turn = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        turn[rows] = np.arange(len(rows))
    return np.lexsort((labels, turn))[:count].tolist()


def preview_rows(
    dataset: Dataset, config: RunConfig, image_size: tuple[int, int], examples: list[int], views: int
) -> list[list[Cell]]:
    """Return a row for each example: as evaluation sees it, then as training does in epochs 1, 2, ...

    Args:
        dataset: The examples.
        config: The run.
        image_size: Height and width that the network sees.
        examples: Indices into the training split.
        views: Epochs shown.
    """
    train, channels = dataset.split("train"), config.data.channels
    rows = []
    for example in examples:
        (encoded,) = dataset.reader.read(train["row"].to_numpy()[[example]])
        image = decode_picture(tf.constant(encoded), image_size, channels).numpy()
        rows.append([Cell(image, "as it is", dataset.labels[train["label"][example].as_py()])])
    places = [_place(train.num_rows, config, example, epoch) for example in examples for epoch in range(views)]
    requests = tf.data.Dataset.range(len(places))

    def pair(request: int) -> tuple[int, np.ndarray]:
        step, position = places[request]
        return step, with_partners(np.array([position]), position + 2)

    batches = train_slices(dataset, config, image_size, requests, pair, 2, 1, threads=2)
    for request, batch in enumerate(batches.as_numpy_iterator()):
        target = _target_text(batch["label"][0], dataset.labels)
        rows[request // views].append(Cell(batch["image"][0], f"epoch {request % views + 1}", target))
    return rows


def draw_sheet(rows: list[list[Cell]], title: str, subtitle: str) -> Image.Image:
    """Lay cells out in rows, below a title."""
    height, width = rows[0][0].image.shape[:2]
    scale = _CELL / max(height, width)
    cell = max(1, round(width * scale)), max(1, round(height * scale))
    columns = max(len(row) for row in rows)
    pitch_x, pitch_y = max(cell[0], _CELL) + _GAP, cell[1] + _TEXT + _GAP
    sheet = Image.new("RGB", (columns * pitch_x + _GAP, _TITLE + len(rows) * pitch_y + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=16), ImageFont.load_default(size=12)
    room = sheet.width - 2 * _GAP
    draw.text((_GAP, 8), _shorten(title, large, room), _INK, large)
    draw.text((_GAP, 29), _shorten(subtitle, small, room), _MUTED, small)
    for y, row in enumerate(rows):
        for x, each in enumerate(row):
            left, top = _GAP + x * pitch_x, _TITLE + y * pitch_y
            sheet.paste(_picture(each.image, cell), (left, top))
            draw.rectangle((left - 1, top - 1, left + cell[0], top + cell[1]), outline=(212, 212, 216))
            draw.text((left, top + cell[1] + 3), each.head, _MUTED, small)
            draw.text((left, top + cell[1] + 17), _shorten(each.text, small, pitch_x - _GAP), _INK, small)
    return sheet


def describe_augmentation(config: AugmentConfig) -> str:
    """Name what is switched on, with its values."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items()) or "no augmentation"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_plain(each)}" for name, each in value.items()) + ")" if value else "on"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _place(num_examples: int, config: RunConfig, example: int, epoch: int) -> tuple[int, int]:
    """Find the step and the position in its batch at which an epoch shows an example."""
    per_epoch = steps_per_epoch(num_examples, config.data.global_batch_size)
    for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
        found = np.flatnonzero(
            batch_positions(num_examples, config.data.global_batch_size, config.seed, step) == example
        )
        if found.size:
            return step, int(found[0])
    raise AssertionError("every epoch shows every example")


def _target_text(label: np.ndarray, names: tuple[str, ...]) -> str:
    if label.ndim == 0:
        return names[int(label)]
    best = np.argsort(-label, kind="stable")[:_NAMED_PARTS]
    return ", ".join(f"{names[index]} {label[index]:.2f}" for index in best if label[index] >= 0.005)


def _picture(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    pixels = np.clip(np.round(image), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    # Enlarged pixels stay visible as such: that is what the network gets.
    kind = Image.Resampling.NEAREST if picture.width < size[0] else Image.Resampling.LANCZOS
    return picture.resize(size, kind)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text.rstrip(", ") + "..."
