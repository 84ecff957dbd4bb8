"""What was evaluated at the end of a run is what its package answers, whoever asks."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tensorflow as tf
from golden_examples import golden_examples
from PIL import Image

import rayft
from rayft.config import parse_config
from rayft.data.dataset import open_dataset, pictures_by_name
from rayft.data.evaluation_batches import evaluation_batches
from rayft.errors import ConfigError, DataError, PackageError
from rayft.evaluation.answers import Answers
from rayft.evaluation.predictions import read_predictions, write_predictions
from rayft.learn.evaluate import make_evaluate
from rayft.learn.final import evaluate_finally, measure
from rayft.learn.gather import make_gather
from rayft.learn.step import Task
from rayft.model.describe import describe_blocks
from rayft.model.layers import portable
from rayft.model.network import build_network
from rayft.package.write import write_package
from rayft.serve.predictor import load
from rayft.storage import Storage

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The end of a run: an untrained network, its last evaluation, its package."""
    home = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home / "home"))
        random = np.random.default_rng(0)
        for name in CLASSES:
            (home / "data" / name).mkdir(parents=True)
            for number in range(20):
                pixels = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / "data" / name / f"{number}.png")
        config = parse_config(
            {
                "name": "zoo",
                "data": {
                    "source": str(home / "data"),
                    "image_size": 8,
                    "validation_fraction": 0.5,
                    "test_fraction": 0.2,
                    "global_batch_size": 7,
                },
                "model": {"backbone": "none", "weights": "none", "pooling": "flatten", "hidden": [8]},
                "freeze": {"depth": 0},
            }
        )
        dataset = open_dataset(config)
        network = build_network(config, 3)
        task = Task(config, network, total_steps=1)

        def batches(split):
            return evaluation_batches(dataset, config, (8, 8), split, rank=0, num_workers=1, batch_size=7)

        last = evaluate_finally(task, dataset, batches, Storage.open(home / "run"), rank=0, alive=lambda: None)
        write_package(
            home / "run" / "package",
            model=portable(network.model),
            config=config,
            labels=dataset.labels,
            image_size=(8, 8),
            licence="none",
            metrics={},
            dataset_fingerprint=dataset.fingerprint,
            blocks_frozen=[],
            blocks=describe_blocks(network),
            calibration=last.calibration,
            golden=golden_examples(
                network.model, dataset.reader.read(np.arange(3)), (8, 8), last.calibration["temperature"]
            ),
        )
        yield SimpleNamespace(
            home=home, config=config, dataset=dataset, task=task, batches=batches, last=last, folder=home / "run"
        )


def test_its_metrics_are_those_that_training_computes(run):
    evaluate = make_evaluate(run.task, 3)
    for split, metrics in run.last.metrics.items():
        assert metrics == pytest.approx(evaluate(run.batches(split)), abs=1e-6)
    assert set(run.last.metrics) == {"validation", "test"}


def test_the_file_the_command_and_the_predictor_agree(run):
    temperature = run.last.calibration["temperature"]
    assert temperature != 1.0
    with pa.ipc.open_file(run.folder / "predictions.arrow") as file:
        table = file.read_all()
    predictor = load(run.folder)
    answers = predictor.predict(pictures_by_name(run.dataset, table["name"].to_pylist()))
    told = np.stack(table["probabilities"].to_pylist())
    np.testing.assert_allclose(told, [answer.probabilities for answer in answers], atol=1e-5)
    assert table["prediction"].to_pylist() == [answer.label for answer in answers]
    for split in ("validation", "test"):
        again = rayft.evaluate(run.folder, run.home / "data", split=split, on_progress=lambda state: None)
        assert again["metrics"] == pytest.approx(run.last.metrics[split], abs=1e-5)
        prefix = "" if split == "validation" else "test_"
        for name, value in again["calibrated"].items():
            assert value == pytest.approx(run.last.calibration["after"][prefix + name], abs=1e-5)
        assert again["examples"] == run.dataset.size(split)
        loss = table.filter(pc.equal(table["split"], split))["loss"].to_numpy().mean()
        assert loss == pytest.approx(again["calibrated"]["log_loss"], abs=1e-5)


def test_the_temperature_lowers_the_loss_it_was_fitted_on(run):
    before, after = run.last.calibration["before"], run.last.calibration["after"]
    assert after["log_loss"] < before["log_loss"]
    assert set(before) == {"log_loss", "ece", "test_log_loss", "test_ece"}


def test_the_network_is_described_block_by_block(run):
    record = json.loads((run.folder / "package" / "package.json").read_text())
    # 8 x 8 x 3 inputs to 8 and to 3 outputs, with biases.
    assert sum(block["parameters"] for block in record["blocks"]) == (192 + 1) * 8 + (8 + 1) * 3
    assert record["blocks"][-1]["name"] == "head"


@pytest.mark.parametrize(("workers", "examples", "size"), [(1, 10, 4), (2, 10, 4), (3, 10, 2), (4, 5, 1), (3, 2, 1)])
def test_every_example_comes_from_the_replica_that_holds_it(workers, examples, size):
    share = -(-examples // workers)
    total = np.zeros((examples, 2), np.float32)
    for rank in range(workers):
        # One replica at a time, without the others' sums: their rows stay zero.
        task = SimpleNamespace(
            strategy=tf.distribute.get_strategy(),
            num_replicas=workers,
            answer=lambda batch: tf.stack([batch["image"], batch["image"] * 10], axis=1),
            all_reduce=tf.identity,
        )
        rows = rank * share + np.arange(-(-share // size) * size)
        batches = tf.data.Dataset.from_tensor_slices({"image": (rows + 1).astype(np.float32)}).batch(size)
        out = np.zeros((examples, 2), np.float32)
        make_gather(task, rank=rank)(batches, out, examples)
        total += out
    np.testing.assert_array_equal(total, np.stack([np.arange(1, examples + 1), 10 * np.arange(1, examples + 1)], 1))


def _answers(logits, labels, split="validation"):
    names = pa.array([f"{split}-{i}" for i in range(len(labels))], pa.string())
    return Answers(split, names, np.array(labels, np.int32), np.array(logits, np.float32))


def test_the_file_of_predictions_reads_back_with_confidence_before_and_after(tmp_path):
    random = np.random.default_rng(1)
    found = _answers(random.normal(0, 4, (5000, 3)), random.integers(0, 3, 5000))
    write_predictions(tmp_path / "p.arrow", [found], CLASSES, 2.0)
    read = read_predictions(tmp_path / "p.arrow")
    raised = np.exp(found.logits - found.logits.max(axis=1, keepdims=True))
    raw = (raised / raised.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(read.raw_confidence, raw, atol=1e-6)
    np.testing.assert_array_equal(read.predicted, found.logits.argmax(axis=1))
    np.testing.assert_array_equal(read.labels, found.labels)
    assert (read.classes, read.temperature, read.splits) == (CLASSES, 2.0, ("validation",))
    assert read.loss.mean() == pytest.approx(found.log_loss(2.0), rel=1e-5)
    assert read.names[4999] == "validation-4999"


def test_without_validation_the_temperature_is_1_and_says_why():
    only_test = measure([_answers([[1.0, 0.0], [0.0, 2.0]], [0, 0], "test")])
    assert only_test.calibration["temperature"] == 1.0
    assert "no validation split" in only_test.calibration["reason"]
    all_right = measure([_answers([[1.0, 0.0], [0.0, 2.0]], [0, 1])])
    assert (all_right.calibration["temperature"], "every answer" in all_right.calibration["reason"]) == (1.0, True)


def test_a_folder_of_results_holds_predictions_metrics_and_a_page(run, tmp_path):
    result = rayft.evaluate(run.folder, run.home / "data", output=tmp_path / "out", on_progress=lambda state: None)
    assert result["split"] == "all"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result.to_dict()
    assert len(read_predictions(tmp_path / "out" / "predictions.arrow").labels) == 60
    assert "Reliability" in (tmp_path / "out" / "report.html").read_text()


def test_labels_are_matched_by_name_and_unknown_ones_are_named(run, tmp_path):
    pixels = Image.new("RGB", (12, 12))
    for name in ("cat", "ant"):
        (tmp_path / "two" / name).mkdir(parents=True)
        pixels.save(tmp_path / "two" / name / "1.png")
    result = rayft.evaluate(run.folder, tmp_path / "two", on_progress=lambda state: None)
    assert (result["examples"], result["metrics"]["accuracy"]) in [(2, 0.5), (2, 0.0)]
    (tmp_path / "two" / "ant").rename(tmp_path / "two" / "emu")
    with pytest.raises(DataError, match="does not know: 'emu'; it knows 'ant', 'bee', 'cat'"):
        rayft.evaluate(run.folder, tmp_path / "two", on_progress=lambda state: None)


def test_splits_and_overrides_that_make_no_sense_are_refused(run):
    with pytest.raises(ConfigError, match="The split is 'dev'"):
        rayft.evaluate(run.folder, run.home / "data", split="dev")
    with pytest.raises(ConfigError, match=r"only data\.\* is allowed"):
        rayft.evaluate(run.folder, run.home / "data", overrides=["train.epochs=3"], on_progress=lambda state: None)
    with pytest.raises(DataError, match="has no test split"):
        rayft.evaluate(
            run.folder,
            run.home / "data",
            split="test",
            overrides=["data.test_fraction=0"],
            on_progress=lambda state: None,
        )


def test_the_predictor_divides_by_the_temperature_of_the_package(run, tmp_path):
    images = np.random.default_rng(2).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    predictor = load(run.folder)
    scaled = predictor.logits(images) / run.last.calibration["temperature"]
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    expected = raised / raised.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([a.probabilities for a in predictor.predict_images(images)], expected, atol=1e-6)
    Storage.open(tmp_path / "package").upload_folder(run.folder / "package")
    record = json.loads((tmp_path / "package" / "package.json").read_text())
    record["calibration"]["temperature"] = 0
    (tmp_path / "package" / "package.json").write_text(json.dumps(record))
    with pytest.raises(PackageError):
        load(tmp_path / "package")
