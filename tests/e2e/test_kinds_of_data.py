"""`rayft init`, then `rayft train` on what it wrote, untouched, for data of different kinds."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from kinds_of_data import balanced_folders, imbalanced_csv, several_labels

from rayft.evaluation.set_predictions import read_sets
from rayft.yaml_text import read_yaml


def rayft(home, *arguments):
    command = [sys.executable, "-m", "rayft", *map(str, arguments)]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def trained(home, source):
    """Train on what init wrote; returns the config, the result and the run's folder."""
    rayft(home, "init", source.name, "-o", "config.yaml")
    told = rayft(home, "train", "config.yaml").stderr
    config = read_yaml((home / "config.yaml").read_text(), "config.yaml")
    folder = home / "runs" / config["name"]
    # Progress shows the metric that decides.
    shown = set(re.findall(r"  (\w+) \d\.\d{4}  [\d,]+ examples/s", told))
    assert shown == {config["train"].get("metric", "accuracy")}
    assert (folder / "report.html").stat().st_size > 50_000
    return config, json.loads((folder / "result.json").read_text()), folder


def test_several_labels_in_parquet_train_are_reported_and_evaluated(tmp_path):
    source = several_labels(tmp_path)
    config, result, folder = trained(tmp_path, source)
    assert config["train"]["metric"] == "map"
    figures = read_sets(folder / "predictions.arrow")["test"]
    prevalence = figures.labelled.mean() / figures.examples
    # Scores that say nothing have the prevalence as their average precision.
    assert result["final"]["test_map"] > prevalence + 0.15
    assert figures.mean_average_precision() == pytest.approx(result["final"]["test_map"], abs=0.01)
    assert result["calibration"]["reason"] is None
    again = json.loads(rayft(tmp_path, "evaluate", folder, source, "--split", "test", "--json").stdout)
    tested = {name: value for name, value in result["final"].items() if name.startswith("test_")}
    # bfloat16 or float32, batches of another size: the same answers but for rounding.
    assert {f"test_{name}": value for name, value in again["metrics"].items()} == pytest.approx(tested, abs=0.01)


@pytest.mark.full
def test_folders_of_equal_size_train(tmp_path):
    config, result, _ = trained(tmp_path, balanced_folders(tmp_path))
    assert "metric" not in config["train"]
    assert result["final"]["accuracy"] > 0.5  # One in four by chance.


@pytest.mark.full
def test_a_csv_of_uneven_classes_trains_with_weights(tmp_path):
    config, result, folder = trained(tmp_path, imbalanced_csv(tmp_path, {"mammal": 90, "vehicle": 60, "bug": 7}))
    assert (config["train"]["class_weights"], config["train"]["metric"]) == ("balanced", "macro_f1")
    # Always the largest class gives 2 x .57 x 1 / (.57 + 1) / 3 = .24.
    assert result["final"]["macro_f1"] > 0.5
    assert np.isfinite(result["best"]["macro_f1"])
    assert "balanced" in (folder / "report.html").read_text()
