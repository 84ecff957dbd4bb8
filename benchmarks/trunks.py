"""Fine-tunes of one trunk against as many separate networks: pictures a second, and memory.

python benchmarks/trunks.py [K] [BACKBONE] [SIDE]
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

SECONDS = 10
CLIENTS = 64


def write(folder: Path, name: str, seed: int, backbone: str, side: int) -> Path:
    """Write the package of a head on a frozen backbone with random weights, the same for every name."""
    import keras

    from rayft.config import parse_config
    from rayft.data.picture import decode_picture
    from rayft.evaluation.calibration import as_probabilities
    from rayft.model.network import build_network
    from rayft.package.golden import Golden
    from rayft.package.write import write_package

    model = {"backbone": backbone, "weights": "none"}
    data = {"source": "x", "image_size": side}
    config = parse_config({"name": name, "data": data, "model": model, "freeze": {"depth": "all"}})
    network = build_network(config, 10)
    head = network.model.get_layer("logits")
    head.kernel.assign(np.random.default_rng(seed).normal(size=head.kernel.shape))
    image = decode_picture(picture(side), (side, side), 3)
    logits = np.asarray(network.model(image[None], training=False))
    write_package(
        folder,
        model=keras.Model(network.model.inputs[0], network.model.outputs[0]),
        config=config,
        labels=tuple("abcdefghij"),
        image_size=(side, side),
        licence="none",
        metrics={},
        dataset_fingerprint="x",
        blocks_frozen=[block.name for block in network.blocks],
        boundary=network.boundary_name,
        golden=Golden((picture(side),), as_probabilities(logits)),
    )
    return folder


def picture(side: int) -> bytes:
    """Return a PNG of noise."""
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def measure(places: list[Path], *, shared: bool, side: int) -> dict[str, float]:
    """Load models, saturate them evenly, return pictures a second and resident memory."""
    from rayft.config import BatchingConfig
    from rayft.serve.engine.engine import BatchingEngine
    from rayft.serve.engine.open import open_source
    from rayft.serve.engine.source import find_sources

    sources = find_sources([str(place) for place in places])
    engine = BatchingEngine([source.name for source in sources], BatchingConfig(max_queue=4096), threads=2)
    for number, source in enumerate(sources):
        served, predictor = open_source(source)
        if not shared:
            predictor.prefix_hash = f"{number}"
            served = replace(served, prefix_hash=f"{number}")
        engine.install(served, predictor)
    images = np.random.default_rng(1).uniform(0, 255, (1, side, side, 3)).astype("float32")
    done = 0

    async def client(name: str, end: float) -> None:
        nonlocal done
        while time.monotonic() < end:
            await engine.answer(name, None, images, deadline=time.monotonic() + 60)
            done += 1

    async def run(seconds: float) -> None:
        names = [source.name for source in sources]
        end = time.monotonic() + seconds
        await asyncio.gather(*(client(names[number % len(names)], end) for number in range(CLIENTS)))

    asyncio.run(run(2))
    done = 0
    asyncio.run(run(SECONDS))
    engine.close()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"pictures_per_s": done / SECONDS, "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}


def main(count: int, backbone: str, side: int) -> None:
    """Measure both in child processes, one after the other, and print them."""
    with tempfile.TemporaryDirectory() as home:
        places = [write(Path(home) / f"m{number}", f"m{number}", number, backbone, side) for number in range(count)]
        for shared in (True, False):
            arguments = [json.dumps([*map(str, places)]), str(shared), str(side)]
            subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[1].startswith("["):
        together, given = sys.argv[2] == "True", [Path(place) for place in json.loads(sys.argv[1])]
        found = measure(given, shared=together, side=int(sys.argv[3]))
        print(json.dumps({"one_trunk": together, **found}), flush=True)
    else:
        main(
            int(sys.argv[1]) if len(sys.argv) > 1 else 4,
            sys.argv[2] if len(sys.argv) > 2 else "efficientnet_lite0",
            int(sys.argv[3]) if len(sys.argv) > 3 else 96,
        )
