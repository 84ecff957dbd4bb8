"""Fine-tunes of one trunk against as many separate networks: pictures a second, and memory.

python benchmarks/trunks.py [K] [BACKBONE] [SIDE]
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

SECONDS = 5
ROUNDS = 5


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


@dataclass(frozen=True)
class Side:
    """A process with all models, in one trunk or in as many as there are models."""

    shared: bool
    process: subprocess.Popen

    def answer(self) -> dict[str, float]:
        """Return the figures that it writes next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A process ended early.")
        return json.loads(line)

    def turn(self, clients: int) -> float:
        """Return pictures a second with so many clients."""
        assert self.process.stdin is not None
        print(clients, file=self.process.stdin, flush=True)
        return self.answer()["pictures_per_s"]


def serve_turns(places: list[Path], *, shared: bool, side: int, answers: IO[str]) -> None:
    """Load the models, and write figures: memory, then pictures a second for each number of clients on stdin."""
    from rayft.config import ServeConfig
    from rayft.distributed.devices import set_up_tensorflow
    from rayft.serve.replica import plan_replica

    cpus = len(os.sched_getaffinity(0))
    set_up_tensorflow(plan_replica(ServeConfig(models=tuple(map(str, places)), cpus_per_replica=cpus)))
    from rayft.config import BatchingConfig
    from rayft.serve.engine.engine import BatchingEngine
    from rayft.serve.engine.open import open_source
    from rayft.serve.engine.source import find_sources

    before = _rss_anon_mb()
    sources = find_sources([str(place) for place in places])
    engine = BatchingEngine([source.name for source in sources], BatchingConfig(max_queue=4096), threads=cpus)
    for number, source in enumerate(sources):
        served, predictor = open_source(source)
        if not shared:
            predictor.prefix_hash = f"{number}"
            served = replace(served, prefix_hash=f"{number}")
        engine.install(served, predictor)
    hashes = {model.prefix_hash for model in engine.models()}
    if len(hashes) != (1 if shared else len(places)):
        raise SystemExit(f"The models have {len(hashes)} prefixes.")
    print(json.dumps({"mb": _rss_anon_mb() - before}), file=answers)
    images = np.random.default_rng(1).uniform(0, 255, (1, side, side, 3)).astype("float32")
    names = [source.name for source in sources]

    async def client(name: str, end: float) -> int:
        done = 0
        while time.monotonic() < end:
            await engine.answer(name, None, images, deadline=time.monotonic() + 60)
            done += 1
        return done

    async def run(clients: int) -> float:
        started = time.monotonic()
        end = started + SECONDS
        done = await asyncio.gather(*(client(names[number % len(names)], end) for number in range(clients)))
        return sum(done) / (time.monotonic() - started)

    for line in sys.stdin:
        print(json.dumps({"pictures_per_s": asyncio.run(run(int(line)))}), file=answers)
    engine.close()


def main(count: int, backbone: str, side: int) -> None:
    """Let both sides take turns, and print ratios."""
    with tempfile.TemporaryDirectory() as home:
        places = [write(Path(home) / f"m{number}", f"m{number}", number, backbone, side) for number in range(count)]
        sides: list[Side] = []
        try:
            for shared in (True, False):
                arguments = [json.dumps([*map(str, places)]), str(shared), str(side)]
                pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
                sides.append(Side(shared, subprocess.Popen([sys.executable, __file__, *arguments], **pipes)))
                print(f"one trunk: {shared}  memory of {count} models: {sides[-1].answer()['mb']:.0f} MB", flush=True)
            for clients in (count, 16 * count):
                # The first turn warms what only a load warms.
                rates = [[each.turn(clients) for each in sides] for _ in range(ROUNDS + 1)][1:]
                quotients = [one / other for one, other in rates]
                together, apart = (statistics.median(rate) for rate in zip(*rates, strict=True))
                print(
                    f"{clients} clients: {together:.1f} pictures a second in one trunk, {apart:.1f} in {count}; "
                    f"ratio {statistics.median(quotients):.3f}, {min(quotients):.3f} .. {max(quotients):.3f}",
                    flush=True,
                )
        finally:
            for each in sides:
                each.process.kill()
                each.process.wait()


def _rss_anon_mb() -> float:
    """Return what this process has allocated, without mapped files."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1e3


if __name__ == "__main__":
    if len(sys.argv) > 3 and sys.argv[1].startswith("["):
        out = os.fdopen(os.dup(1), "w", buffering=1)
        # What libraries print must not mix with the figures.
        os.dup2(2, 1)
        given = [Path(place) for place in json.loads(sys.argv[1])]
        serve_turns(given, shared=sys.argv[2] == "True", side=int(sys.argv[3]), answers=out)
    else:
        main(
            int(sys.argv[1]) if len(sys.argv) > 1 else 4,
            sys.argv[2] if len(sys.argv) > 2 else "efficientnet_lite0",
            int(sys.argv[3]) if len(sys.argv) > 3 else 96,
        )
