"""Speed of the input pipeline alone, as ratios taken in one run: ``python benchmarks/input.py``."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from PIL import Image
from rounds import Spec, ratio, take_turns
from setting import Setting
from speed import ALL_CORES, RESULTS, Cores, Epochs, Out, Rounds, _cores, _report

HEIGHT, WIDTH, SIDE = 375, 500, 224
BATCH_SIZE = 32
CASES: dict[str, dict[str, Any]] = {
    "decode": {},
    "augment": {
        "random_resized_crop": {},
        "horizontal_flip": True,
        "brightness": 0.1,
        "contrast": 0.2,
        "saturation": 0.2,
    },
}


def main(
    torch_python: Annotated[str | None, typer.Option(help="Interpreter with torch, pillow, numpy, pyarrow.")] = None,
    out: Out = RESULTS,
    rounds: Rounds = 7,
    epochs: Epochs = 1,
    pictures: Annotated[int, typer.Option(help="Different pictures; an epoch shows each once.", min=BATCH_SIZE)] = 2048,
    cores: Cores = ALL_CORES,
    case: Annotated[list[str] | None, typer.Option("--case", help="decode or augment; both if not given.")] = None,
) -> None:
    """Examples a second of rayft's pipeline, of a hand-written tf.data pipeline, and of PyTorch's DataLoader."""
    pinned = _cores(cores)
    with tempfile.TemporaryDirectory(prefix="rayft-input-") as folder:
        source = Path(folder) / "photos.parquet"
        write_photos(source, pictures)
        for name in case or list(CASES):
            config = {
                "data": {
                    "source": str(source),
                    "image_size": SIDE,
                    "global_batch_size": BATCH_SIZE,
                    "validation_fraction": 0,
                    "augment": CASES[name],
                },
                "train": {"epochs": 1},
            }
            setting = Setting(config=config, data=str(source), source="rayft", cores=pinned)
            plain = Setting(config=config, data=str(source), source="plain", cores=pinned)
            specs = [Spec("rayft", "input_side.py", (setting,)), Spec("tf.data", "input_side.py", (plain,))]
            if torch_python is not None:
                specs.append(Spec("torch", "input_torch.py", (plain,), python=torch_python))
            turns, details = take_turns(specs, rounds=rounds, epochs=epochs)
            ratios = [
                ratio(turns, *sides, measure, f"rayft against {other}, {measure}")
                for other in [spec.name for spec in specs[1:]]
                # Examples a second want to be many, CPU time wants to be little: above 1 is better in both.
                for measure, sides in (
                    ("examples_per_s", ("rayft", other)),
                    ("cpu_ms_per_example", (other, "rayft")),
                )
            ]
            _report(out, {"measurement": "input", "case": name, "cores": pinned}, turns, details, ratios)


def write_photos(path: Path, count: int) -> None:
    """Write JPEGs cut from the two photographs that scikit-learn carries."""
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    rng = np.random.default_rng(0)
    encoded = []
    for index in range(count):
        photo = photos[index % len(photos)]
        top, left = rng.integers(photo.shape[0] - HEIGHT + 1), rng.integers(photo.shape[1] - WIDTH + 1)
        part = photo[top : top + HEIGHT, left : left + WIDTH]
        buffer = io.BytesIO()
        Image.fromarray(part[:, :: rng.choice([-1, 1])]).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"image": encoded, "label": pa.array(np.arange(count) % 2, pa.int32())}), path)


if __name__ == "__main__":
    typer.run(main)
