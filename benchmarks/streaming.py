"""Resident memory of a training worker over a dataset and one ten times as large.

``python benchmarks/streaming.py`` writes both as Parquet files of noisy JPEGs into a temporary folder, opens each in
one process, as the driver does, and trains one epoch in another, as a worker does, without Ray. The worker notes its
memory ten times a second: RssAnon is what it allocated, VmRSS has file pages that it maps as well.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rounds import worker_environment

DISTINCT = 64
SIDE = 192
INTERVAL_S = 0.1
FIELDS = ("RssAnon", "VmRSS")
TARGET = 1.1


def config(folder: Path) -> dict:
    """Return the run: a tiny network, one epoch."""
    return {
        "name": "streaming",
        "storage": str(folder),
        "data": {
            "source": str(folder / "data.parquet"),
            "global_batch_size": 32,
            "image_size": 32,
            "validation_fraction": 0.05,
            "cache_folder": str(folder / "cache"),
            "augment": {"horizontal_flip": True, "crop": 0.2},
        },
        "model": {"backbone": "none", "weights": "none", "pooling": "flatten", "hidden": [16]},
        "freeze": {"depth": 0},
        "train": {"epochs": 1},
    }


def write_table(path: Path, total_bytes: int) -> int:
    """Write JPEGs of noise until there are ``total_bytes``; returns their number."""
    from PIL import Image

    random = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        buffer = io.BytesIO()
        noise = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "JPEG", quality=95, subsampling=0)
        pictures.append(buffer.getvalue())
    count = total_bytes // len(pictures[0])
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        for start in range(0, count, 256):
            rows = range(start, min(start + 256, count))
            # What follows the end of a JPEG is ignored; so no two are equal.
            images = [pictures[row % DISTINCT] + row.to_bytes(8, "big") for row in rows]
            writer.write_table(pa.table({"image": images, "label": [row % 2 for row in rows]}, schema=schema))
    return count


def prepare(folder: Path) -> None:
    """Open the dataset, as a driver does, and leave it for the worker."""
    from rayft.config import parse_config
    from rayft.data.dataset import open_dataset

    (folder / "dataset.pickle").write_bytes(pickle.dumps(open_dataset(parse_config(config(folder)))))


def work(folder: Path) -> None:
    """Train one epoch and print the largest memory since the first step as a JSON line."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf

    from rayft.config import parse_config
    from rayft.learn.session import Place, run_session

    run, dataset = parse_config(config(folder)), pickle.loads((folder / "dataset.pickle").read_bytes())
    peaks = dict.fromkeys(FIELDS, 0)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL_S):
            peaks.update({name: max(peaks[name], value) for name, value in memory().items()})

    started = time.perf_counter()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    place = Place(0, 1, broadcast=lambda value: value, alive=lambda: None)
    result = run_session(run, dataset, place, lambda state: False, tf.distribute.get_strategy())
    done.set()
    watcher.join()
    line = {**peaks, "examples": dataset.examples.num_rows, "seconds": round(time.perf_counter() - started, 1)}
    print(json.dumps({**line, "steps": result["steps"]}))


def memory() -> dict[str, int]:
    """Return the fields of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.partition(":")[0]: line.split() for line in lines}
    return {name: int(values[name][1]) * 1024 for name in FIELDS}


def measure(total_bytes: int) -> dict:
    """Write, open and train over a dataset of so many bytes; returns what the worker printed."""
    with tempfile.TemporaryDirectory(prefix="rayft-streaming-") as name:
        folder = Path(name)
        write_table(folder / "data.parquet", total_bytes)
        size = (folder / "data.parquet").stat().st_size
        for phase in ("prepare", "work"):
            command = [sys.executable, __file__, "--phase", phase, "--folder", name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=worker_environment())
            # The copy of the pictures in the cache suffices; this proves it, and saves the room.
            (folder / "data.parquet").unlink(missing_ok=True)
    return {"parquet_bytes": size, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    """Measure both sizes and print them with their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="Size of the small dataset.")
    parser.add_argument("--phase", choices=("prepare", "work"))
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.phase:
        {"prepare": prepare, "work": work}[given.phase](given.folder)
        return
    small, large = (measure(given.megabytes * 1_000_000 * times) for times in (1, 10))
    for line in (small, large):
        print(json.dumps(line))
    for name in FIELDS:
        ratio = large[name] / small[name]
        print(f"{name}: {small[name] / 1e6:.0f} MB and {large[name] / 1e6:.0f} MB, ratio {ratio:.3f} (target {TARGET})")


if __name__ == "__main__":
    main()
