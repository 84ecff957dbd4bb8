"""Answers with several labels a picture: figures by hand, and one story from evaluation to page and package."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf
from golden_examples import golden_examples, picture
from scipy.optimize import minimize_scalar
from sklearn.metrics import average_precision_score

import rayft
from rayft.config import parse_config
from rayft.data.dataset import open_dataset, pictures_by_name
from rayft.data.evaluation_batches import evaluation_batches
from rayft.data.objective import make_objective
from rayft.data.views import make_views, tta_record
from rayft.errors import DataError
from rayft.evaluation.answers import Answers
from rayft.evaluation.calibration import HIGHEST, as_probabilities, fit_temperature
from rayft.evaluation.measure import wilson
from rayft.evaluation.ranking import average_precision
from rayft.evaluation.set_predictions import read_sets, write_sets
from rayft.learn.final import evaluate_finally, split_metrics
from rayft.learn.step import Task
from rayft.model.describe import describe_blocks
from rayft.model.layers import portable
from rayft.model.network import build_network
from rayft.package.write import write_package
from rayft.report.set_sections import show_sets
from rayft.serve.predictor import load
from rayft.storage import Storage

CLASSES = ("ant", "bee", "cat")
# Five pictures, three classes; logits whose order and side of 0 are easy to follow.
LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
LOGITS = np.array([[3, -1, -4], [-1, 2, -4], [2, 1, -4], [-2, 4, -4], [1, -3, -4]], np.float32)


def written(folder, labels=LABELS, logits=LOGITS, temperature=1.0, classes=CLASSES):
    names = pa.array([f"{i}.png" for i in range(len(labels))])
    answers = Answers("test", names, labels, logits)
    write_sets(folder / "p.arrow", [answers], classes, temperature)
    return answers, read_sets(folder / "p.arrow")["test"]


def test_the_figures_of_each_class_are_those_counted_by_hand(tmp_path):
    _, found = written(tmp_path)
    ant, bee, cat = found.rows()
    # ant answered in rows 0, 2, 4, there in 0, 1, 4.
    assert (ant.support, ant.precision, ant.recall, ant.f1) == (3, 2 / 3, 2 / 3, 2 / 3)
    assert ant.recall_interval == wilson(2, 3)
    # Ranked: 0 (hit), 2, 4 (hit), 1 (hit), 3: precision 1, 2/3, 3/4 where recall grows by a third.
    assert ant.average_precision == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # bee answered in 1, 2, 3, there in 1, 2. Ranked: 3, 1 (hit), 2 (hit).
    assert (bee.support, bee.precision, bee.recall, bee.f1) == (2, 2 / 3, 1.0, 0.8)
    assert bee.average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (cat.support, cat.precision, cat.recall, cat.f1, cat.average_precision) == (0, None, None, None, None)
    assert (found.examples, found.right) == (5, 2)
    assert found.together.tolist() == [[3, 1, 0], [1, 2, 0], [0, 0, 0]]
    # ant was answered where bee is, in row 2; bee in row 3, beside nothing.
    assert found.claimed.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_the_worst_mistakes_come_first(tmp_path):
    _, found = written(tmp_path)
    assert [(m.name, m.label, m.labels) for m in found.false_answers] == [("3.png", 1, ()), ("2.png", 0, (1,))]
    assert [(m.name, m.label) for m in found.missed] == [("1.png", 0)]
    assert found.missed[0].probability == pytest.approx(1 / (1 + np.e), abs=1e-6)
    labels = np.zeros((300, 1), bool)
    logits = np.random.default_rng(0).permutation(np.linspace(0.1, 3, 300)).astype(np.float32)[:, None]
    _, many = written(tmp_path, labels, logits, classes=("a",))
    best = np.argsort(-logits[:, 0])[:12]
    assert [m.name for m in many.false_answers] == [f"{i}.png" for i in best]


@pytest.fixture(scope="module")
def sampled():
    """Labels drawn from the sigmoid of logits: temperature 1 calibrates them."""
    random = np.random.default_rng(3)
    logits = random.normal(-0.5, 2, (4000, 3))
    return logits.astype(np.float32), random.random(logits.shape) < 1 / (1 + np.exp(-logits))


def test_average_precision_is_that_of_scikit_learn(tmp_path, sampled):
    logits, labels = sampled
    _, found = written(tmp_path, labels, logits, temperature=1.7)
    for index, row in enumerate(found.rows()):
        assert row.average_precision == pytest.approx(
            average_precision_score(labels[:, index], logits[:, index]), abs=2e-3
        )
    assert np.isnan(average_precision(np.zeros(4), np.ones(4)))


def test_bootstrap_intervals_hold_what_resampled_examples_give(tmp_path, sampled):
    logits, labels = sampled[0][:300], sampled[1][:300]
    row = written(tmp_path, labels, logits)[1].rows()[0]
    random, drawn = np.random.default_rng(5), []
    for _ in range(400):
        rows = random.integers(0, 300, 300)
        there, answered = labels[rows, 0], logits[rows, 0] > 0
        f1 = 2 * (there & answered).sum() / (there.sum() + answered.sum())
        drawn.append((average_precision_score(there, logits[rows, 0]), f1))
    want = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(row.average_precision_interval, want[:, 0], atol=0.025)
    np.testing.assert_allclose(row.f1_interval, want[:, 1], atol=0.025)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_one_temperature_is_fitted_over_all_labels(sampled, scale):
    logits, labels = sampled[0].astype(np.float64) * scale, sampled[1]
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(scale, rel=0.05)

    def loss(inverse):
        z = logits * inverse
        return (np.logaddexp(0, -z) * labels + np.logaddexp(0, z) * ~labels).mean()

    best = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9})
    assert found == pytest.approx(1 / best.x, rel=1e-4)


def test_no_temperature_is_best_where_every_label_is_right_and_the_highest_where_none_is():
    logits = np.array([[2.0, -1.0], [-3.0, 0.5]])
    assert fit_temperature(logits, logits > 0) is None
    assert fit_temperature(logits, logits < 0) == HIGHEST
    assert fit_temperature(logits, np.array([[True, False], [True, True]])) not in (None, HIGHEST)


def test_calibration_compares_each_labels_probability_with_how_often_it_is_there(tmp_path):
    logits, labels = np.full((10, 2), np.log(3), np.float32), np.zeros((10, 2), bool)
    labels[:6] = True
    labels[6:9, 0] = True
    answers, found = written(tmp_path, labels, logits, temperature=2.0, classes=("a", "b"))
    # Probability .75 everywhere; 9 + 6 of 20 labels are there.
    assert split_metrics(answers)["ece"] == pytest.approx(0.0, abs=1e-6)
    assert found.before.ece == pytest.approx(0.0, abs=1e-6)
    scaled = 1 / (1 + 3**-0.5)
    assert split_metrics(answers, 2.0)["ece"] == pytest.approx(0.75 - scaled, abs=1e-6)
    assert found.after.ece == pytest.approx(0.75 - scaled, abs=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The end of a run with test-time augmentation: an untrained network, its last evaluation, its package."""
    home = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home / "home"))
        random = np.random.default_rng(0)
        sets = [[name for name in CLASSES if random.random() < 0.4] for _ in range(60)]
        pictures = [picture(12, tuple(random.integers(0, 255, 3).tolist())) for _ in range(60)]
        table = pa.table({"image": pa.array(pictures, pa.binary()), "labels": sets})
        pa.parquet.write_table(table, home / "data.parquet")
        config = parse_config(
            {
                "name": "zoo",
                "data": {
                    "source": str(home / "data.parquet"),
                    "image_size": 8,
                    "validation_fraction": 0.5,
                    "test_fraction": 0.2,
                },
                "model": {"backbone": "none", "weights": "none", "pooling": "flatten", "hidden": [8]},
                "freeze": {"depth": 0},
                "evaluate": {"tta": {"flip": True, "crops": 5, "crop_scale": 0.6}},
            }
        )
        dataset = open_dataset(config)
        network = build_network(config, 3)
        for weights in network.model.trainable_variables:
            weights.assign(random.normal(size=weights.shape) / 40)
        task = Task(config, network, total_steps=1, objective=make_objective(config, dataset))

        def batches(split):
            return evaluation_batches(dataset, config, (8, 8), split, rank=0, num_workers=1, batch_size=7)

        last = evaluate_finally(task, dataset, batches, Storage.open(home / "run"), rank=0, alive=lambda: None)
        write_package(
            home / "run" / "package",
            model=portable(network.model),
            config=config,
            labels=dataset.labels,
            multi_label=True,
            image_size=(8, 8),
            licence="none",
            metrics={},
            dataset_fingerprint=dataset.fingerprint,
            blocks_frozen=[],
            blocks=describe_blocks(network),
            calibration=last.calibration,
            golden=golden_examples(
                network.model,
                dataset.reader.read(np.arange(3)),
                (8, 8),
                last.calibration["temperature"],
                multi_label=True,
                views=tta_record(config),
            ),
        )
        yield SimpleNamespace(home=home, config=config, dataset=dataset, network=network, last=last, task=task)


def test_the_file_the_command_and_the_predictor_agree(run):
    temperature = run.last.calibration["temperature"]
    assert temperature != 1.0
    with pa.ipc.open_file(run.home / "run" / "predictions.arrow") as file:
        table = file.read_all()
    answers = load(run.home / "run").predict(pictures_by_name(run.dataset, table["name"].to_pylist()))
    np.testing.assert_allclose(table["probabilities"].to_pylist(), [a.probabilities for a in answers], atol=1e-5)
    assert [tuple(labels) for labels in table["predictions"].to_pylist()] == [answer.labels for answer in answers]
    out = run.home / "out"
    again = rayft.evaluate(
        run.home / "run", run.home / "data.parquet", split="test", output=out, on_progress=lambda state: None
    )
    assert again["metrics"] == pytest.approx(run.last.metrics["test"], abs=1e-5)
    assert again["calibrated"]["ece"] == pytest.approx(run.last.calibration["after"]["test_ece"], abs=1e-5)
    figures = read_sets(out / "predictions.arrow")["test"]
    assert figures.mean_average_precision() == pytest.approx(again["metrics"]["map"], abs=2e-3)
    assert figures.macro_f1() == pytest.approx(again["metrics"]["macro_f1"], abs=1e-6)
    assert figures.right / figures.examples == pytest.approx(again["metrics"]["accuracy"], abs=1e-6)
    assert json.loads((out / "metrics.json").read_text()) == again.to_dict()
    assert "Answered and not there" in (out / "report.html").read_text()


def test_the_views_probabilities_are_averaged_label_by_label(run):
    images = np.random.default_rng(1).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)

    views = make_views(tf.constant(images), tta_record(run.config))
    assert len(views) == 10
    each = [as_probabilities(run.network.model(view).numpy(), multi_label=True) for view in views]
    answered = as_probabilities(run.task.answer({"image": tf.constant(images)}).numpy(), multi_label=True)
    np.testing.assert_allclose(answered, np.mean(each, axis=0), atol=1e-6)
    plain = as_probabilities(run.network.model(images).numpy(), multi_label=True)
    assert np.abs(answered - plain).max() > 1e-3
    assert load(run.home / "run").replay_golden() < 1e-5


def test_the_temperature_lowers_the_loss_it_was_fitted_on(run):
    before, after = run.last.calibration["before"], run.last.calibration["after"]
    assert after["log_loss"] < before["log_loss"]
    assert set(before) == {"log_loss", "ece", "test_log_loss", "test_ece"}


def test_data_with_one_label_a_picture_is_refused(run, tmp_path):
    table = pa.table({"image": pa.array([picture(12)] * 4, pa.binary()), "label": ["ant", "bee", "ant", "bee"]})
    pa.parquet.write_table(table, tmp_path / "one.parquet")
    with pytest.raises(DataError, match="has one label for a picture; the package answers with several"):
        rayft.evaluate(run.home / "run", tmp_path / "one.parquet", on_progress=lambda state: None)


def test_data_may_name_the_labels_in_another_order_and_lack_some(run, tmp_path):
    table = pa.table({"image": pa.array([picture(12)] * 2, pa.binary()), "labels": [["cat"], ["cat", "bee"]]})
    pa.parquet.write_table(table, tmp_path / "two.parquet")
    rayft.evaluate(run.home / "run", tmp_path / "two.parquet", output=tmp_path / "out", on_progress=lambda state: None)
    assert read_sets(tmp_path / "out" / "predictions.arrow")["all"].labelled.tolist() == [0, 1, 2]


def test_many_classes_get_a_map_and_the_worst_of_them(tmp_path):
    random = np.random.default_rng(0)
    classes = tuple(f"class {i}" for i in range(60))
    labels = random.random((90, 60)) < 0.1
    _, found = written(tmp_path, labels, random.normal(size=(90, 60)).astype(np.float32), classes=classes)
    text = "".join(section.body for section in show_sets({"test": found}, {"reason": None}, None).sections)
    assert "The 20 classes with the lowest F1" in text
    assert "together with" not in text
    assert show_sets({}, {}, None).sections == []
