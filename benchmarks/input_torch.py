"""Measured process: PyTorch's DataLoader with Pillow transforms, as torchvision does them on Pillow pictures.

Its environment has PyTorch, NumPy, Pillow and pyarrow alone.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import random
import sys
import time

from gate import Gate
from setting import Setting


def cpu_s() -> float:
    """Return the CPU seconds of this process and of the DataLoader's workers."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        with open(f"/proc/{child.pid}/stat") as file:
            # After the name in parentheses: utime and stime are the 12th and 13th field.
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main() -> None:
    """Read epochs until the driver has enough."""
    setting = Setting.from_json(sys.argv[1])
    gate = Gate(setting.cores, cpu_s)
    import pyarrow.parquet as pq
    from torch.utils.data import DataLoader

    table = pq.read_table(setting.data)
    pictures = Pictures(table["image"].to_pylist(), table["label"].to_pylist(), setting.config["data"])
    loader = DataLoader(
        pictures,
        batch_size=setting.global_batch_size,
        shuffle=True,
        num_workers=len(setting.cores),
        persistent_workers=True,
    )
    gate.open(steps=len(loader), examples=len(pictures))
    while True:
        for _ in loader:
            pass
        gate.epoch_done()


class Pictures:
    """Decodes and changes one picture at a time; what DataLoader calls a map-style dataset."""

    def __init__(self, encoded: list[bytes], labels: list[int], data: dict) -> None:
        self.encoded, self.labels = encoded, labels
        self.side, self.change = data["image_size"], data["augment"]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int):
        import numpy as np
        import torch
        from PIL import Image, ImageEnhance

        picture = Image.open(io.BytesIO(self.encoded[index])).convert("RGB")
        box = crop_box(*picture.size) if self.change else None
        picture = picture.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)
        if self.change:
            if random.random() < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            for kind, name in (
                (ImageEnhance.Brightness, "brightness"),
                (ImageEnhance.Contrast, "contrast"),
                (ImageEnhance.Color, "saturation"),
            ):
                largest = self.change[name]
                picture = kind(picture).enhance(random.uniform(1 - largest, 1 + largest))
        # torchvision's PILToTensor, then float.
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return pixels.float(), self.labels[index]


def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Draw as torchvision's RandomResizedCrop does; left, top, right, bottom."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height


if __name__ == "__main__":
    main()
