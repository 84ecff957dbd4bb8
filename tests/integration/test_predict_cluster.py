"""`rayft predict` over Ray Data gives the answers of one process, in the same order."""

import io
import json

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from golden_examples import golden_examples
from PIL import Image
from running import Command

from rayft.config import parse_config
from rayft.package.write import write_package

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("predict")
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image)))
    model = keras.Model(image, logits)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 80, 70)).save(buffer, "PNG")
    write_package(
        home / "package",
        model=model,
        golden=golden_examples(model, [buffer.getvalue()], (8, 8), 2.0),
        config=parse_config({"name": "colours", "data": {"source": "x"}}),
        labels=LABELS,
        image_size=(8, 8),
        licence="none",
        metrics={},
        dataset_fingerprint="none",
        blocks_frozen=[],
        calibration={"temperature": 2.0},
    )
    random = np.random.default_rng(0)
    (home / "pictures").mkdir()
    for number in range(700):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(home / "pictures" / f"{number:03}.png")
    (home / "pictures" / "500.png").write_bytes(b"broken")
    return home


def _predict(home, *more):
    command = Command.start(home, "predict", "package", "pictures", "--on-bad", "skip", *more)
    try:
        assert command.wait() == 0, command.err
        return command.out, command.err
    finally:
        command.clean_up()


def test_two_workers_answer_as_one_process_does(home):
    _predict(home, "--output", "alone.jsonl")
    out, err = _predict(home, "--workers", "2", "--output", "spread.parquet", "--json")
    summary = json.loads(out)
    assert (summary["pictures"], summary["bad"], summary["output"]) == (700, 1, "spread.parquet")
    assert "spreading 700 pictures over 2 workers" in err
    assert "500.png" in err
    alone = [json.loads(line) for line in (home / "alone.jsonl").read_text().splitlines()]
    spread = pq.read_table(home / "spread.parquet").to_pylist()
    assert [row["input"] for row in spread] == [line["input"] for line in alone]
    assert [row["label"] for row in spread] == [line.get("label") for line in alone]
    good = [(row["probability"], line["probability"]) for row, line in zip(spread, alone, strict=True) if row["label"]]
    np.testing.assert_allclose(*np.transpose(good), atol=1e-6)
    assert len(good) == 699
