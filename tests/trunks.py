"""Small packages that share a frozen prefix, for tests of the engine and of the endpoint."""

from __future__ import annotations

import io
from pathlib import Path

import keras
import numpy as np
from golden_examples import golden_examples
from PIL import Image

from rayft.config import parse_config
from rayft.package.write import write_package

SIZE = (12, 12)


def noise(seed: int, side: int = 12) -> bytes:
    """Return a PNG of random pixels, large enough not to be resized."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tuned(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    prefix_seed: int | None = 7,
    labels: tuple[str, ...] = ("cat", "dog", "eel"),
    temperature: float = 1.0,
) -> Path:
    """Write the package of a network of a convolution, pooling and a head.

    Args:
        folder: The package's folder.
        name: Of the package.
        seed: Of the head's weights.
        prefix_seed: Of the frozen convolution's; None freezes nothing.
        labels: Names of the classes.
        temperature: Divides the logits.
    """
    keras.utils.set_random_seed(prefix_seed or 0)
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs)
    x = keras.layers.Conv2D(6, 3, activation="relu", name="conv")(x)
    keras.utils.set_random_seed(seed)
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(len(labels), name="logits", kernel_initializer="normal")(pooled))
    model.get_layer("logits").kernel.assign(10 * np.random.default_rng(seed).normal(size=(6, len(labels))))
    frozen = {} if prefix_seed is None else {"boundary": "conv"}
    write_package(
        folder,
        model=model,
        config=parse_config({"name": name, "data": {"source": "x"}}),
        labels=labels,
        image_size=SIZE,
        licence="MIT",
        metrics={"accuracy": 0.5},
        dataset_fingerprint="abc",
        blocks_frozen=["conv"] if frozen else [],
        golden=golden_examples(model, [noise(seed) for seed in range(4)], SIZE, temperature),
        calibration={"temperature": temperature},
        **frozen,
    )
    return folder
