"""Decodes the demo pictures into arrays: ``python decode.py CONFIG-JSON COUNT FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from rayft.config import parse_config
from rayft.data.dataset import open_dataset
from rayft.data.picture import decode_picture


def main() -> None:
    """Write ``images.npy`` uint8 [n, H, W, 3] and ``labels.npy`` int32 [n]; pictures repeat if there are too few."""
    config, count, folder = parse_config(json.loads(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
    side = config.data.image_size
    dataset = open_dataset(config)
    train = dataset.split("train")
    chosen = np.arange(count) % train.num_rows
    encoded = dataset.reader.read(train["row"].to_numpy()[: train.num_rows])
    decoded = [np.round(decode_picture(tf.constant(content), (side, side), 3)) for content in encoded[:count]]
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.stack(decoded).clip(0, 255).astype(np.uint8)[chosen % len(decoded)])
    np.save(folder / "labels.npy", train["label"].to_numpy()[chosen])


if __name__ == "__main__":
    main()
