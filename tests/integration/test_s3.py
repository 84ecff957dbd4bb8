"""A run whose data, checkpoints, results and package lie on S3 alone."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from running import Command
from s3_server import s3_bucket

from rayft.runs import RunFolder
from rayft.storage import Storage

CONFIG = """
name: run
storage: '{storage}'
data: {{source: '{source}', global_batch_size: 8, image_size: 32, cache_folder: cache}}
model: {{backbone: none, weights: none, pooling: flatten, hidden: [8]}}
freeze: {{depth: 0}}
train: {{epochs: 2, checkpoint_every_steps: 2}}
cluster: {{workers: 1, cpus_per_worker: 1}}
"""


def _pictures(count: int = 24) -> list[bytes]:
    random = np.random.default_rng(0)
    contents = []
    for number in range(count):
        pixels = random.integers(0, 120, (32, 32, 3), dtype=np.uint8)
        pixels[..., number % 2] += 100
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return contents


def test_a_run_lives_on_s3_alone(tmp_path):
    pictures = _pictures()
    table = pa.table({"image": pictures, "label": [["red", "green"][n % 2] for n in range(len(pictures))]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    (tmp_path / "picture.png").write_bytes(pictures[1])
    with s3_bucket() as bucket:
        Storage.open(bucket.uri("data/pictures.parquet")).write_bytes(buffer.getvalue())
        text = CONFIG.format(storage=bucket.uri("results"), source=bucket.uri("data/pictures.parquet"))
        (tmp_path / "config.yaml").write_text(text)
        _run(tmp_path, "train", "config.yaml")
        folder = RunFolder(Storage.open(bucket.uri("results/runs/run")))
        assert folder.result()["status"] == "finished"
        assert {"config.yaml", "metrics.jsonl", "result.json", "checkpoints", "package"} <= set(folder.storage.list())
        assert any(name.startswith("step-") for name in folder.checkpoints.list())
        assert not (tmp_path / "runs").exists()
        assert [path for path in tmp_path.rglob("*") if path.suffix in (".npz", ".keras", ".jsonl")] == []
        answer = _run(tmp_path, "predict", bucket.uri("results/runs/run/package"), "picture.png", "--json")
        assert json.loads(answer)["label"] == "green"


def _run(home, *arguments: str) -> str:
    command = Command.start(home, *arguments)
    try:
        assert command.wait() == 0, command.err
        return command.out
    finally:
        command.clean_up()
