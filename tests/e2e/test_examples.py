import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data" / "pictures.parquet"


def rayft(*arguments, folder=ROOT):
    command = [sys.executable, "-m", "rayft", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The demo, with small pictures, for three epochs."""
    storage = tmp_path_factory.mktemp("pictures")
    done = rayft(
        "train",
        "examples/pictures/config.yaml",
        *("--set", f"storage={storage}"),
        *("--set", "data.image_size=64"),
        *("--set", "train.epochs=3"),
    )
    assert done.returncode == 0, done.stderr
    return done, storage / "runs" / "pictures"


def test_the_demo_learns_and_leaves_what_it_says(pictures):
    done, run = pictures
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["num_workers"] == 2
    # Always the largest class: 0.18.
    assert result["final"]["test_accuracy"] > 0.3
    assert set(result) >= {
        *("name", "status", "best", "final", "num_workers", "global_batch_size", "epochs", "steps"),
        *("examples_per_s", "wall_s", "prefix_cache", "restarts", "package"),
    }
    files = {"config.yaml", "metrics.jsonl", "log.jsonl", "result.json", "predictions.arrow", "prefix_cache.json"}
    assert files | {"report.html", "checkpoints", "package", "tensorboard"} == {path.name for path in run.iterdir()}
    assert str(run / "package") in done.stdout
    assert "Traceback" not in done.stderr
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_the_demo_ends_with_an_answer_over_http(pictures):
    _, run = pictures
    command = [sys.executable, "examples/pictures/ask.py", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    address, answer, truth = done.stdout.splitlines()
    assert address.endswith("/v1/models/pictures:predict")
    assert json.loads(answer)["label"]
    assert truth.startswith("it shows: ")
    assert "Traceback" not in done.stderr


def test_the_package_answers_from_the_command_line(pictures, tmp_path):
    _, run = pictures
    for index, row in enumerate(pq.read_table(DATA).slice(0, 2).to_pylist()):
        (tmp_path / f"{index}.png").write_bytes(row["image"])
    done = rayft("predict", run, tmp_path, "--top", 3, "--json")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(answer["input"]).name for answer in answers] == ["0.png", "1.png"]
    assert all(len(answer["top"]) == 3 and 0 < answer["probability"] <= 1 for answer in answers)


def test_the_textbook_vgg16_trains_its_head_alone(tmp_path):
    done = rayft(
        "train",
        "examples/vgg16/config.yaml",
        *("--set", f"storage={tmp_path}"),
        *("--set", "data.image_size=32"),
        *("--set", "train.epochs=1"),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    package = json.loads((Path(json.loads(done.stdout)["package"]) / "package.json").read_text())
    assert package["lineage"]["config"]["model"]["hidden"] == [256]
    assert package["blocks_frozen"] == ["block1", "block2", "block3", "block4", "block5"]


def test_digits_train_with_a_loss_and_a_step_of_their_own(tmp_path):
    # The example writes below the working directory, and its import paths start there.
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run(
        [sys.executable, "examples/digits/run.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs" / "digits" / "result.json").read_text())
    assert result["final"]["test_accuracy"] > 0.9
