import numpy as np
import pytest

from rayft.evaluation.calibration import HIGHEST, fit_temperature, log_probabilities
from rayft.evaluation.measure import class_rows, confusion_matrix, reliability, wilson


def sampled(temperature, n=40_000, classes=5):
    """Logits whose labels are drawn from softmax(logits / temperature): that temperature calibrates them."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (n, classes))
    # The largest of logits plus Gumbel noise is a draw from their softmax.
    return logits, (logits / temperature + random.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.fixture(scope="module")
def calibrated():
    return sampled(1.0)


@pytest.mark.parametrize("scale", [0.2, 1.0, 3.7, 20.0])
def test_logits_scaled_by_t_are_given_the_temperature_t(calibrated, scale):
    logits, labels = calibrated
    # T is found from a sample: its standard error here is below 1 %.
    assert fit_temperature(logits * scale, labels) == pytest.approx(scale, rel=0.02)


def test_the_temperature_scales_exactly_with_the_logits(calibrated):
    logits, labels = calibrated[0][:500], calibrated[1][:500]
    assert fit_temperature(logits * 7, labels) == pytest.approx(7 * fit_temperature(logits, labels), rel=1e-8)


def test_no_temperature_on_a_fine_grid_has_a_lower_loss():
    logits, labels = sampled(2.5, n=300)
    found = fit_temperature(logits, labels)

    def loss(t):
        return -log_probabilities(logits, t)[np.arange(len(labels)), labels].mean()

    grid = np.geomspace(found / 3, found * 3, 2001)
    assert loss(found) <= min(map(loss, grid)) + 1e-12


def test_it_is_the_temperature_that_scipy_finds():
    optimize = pytest.importorskip("scipy.optimize")
    logits, labels = sampled(1.7, n=400)

    def loss(inverse):
        return -log_probabilities(logits, 1 / inverse)[np.arange(len(labels)), labels].sum()

    found = optimize.minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-10})
    assert fit_temperature(logits, labels) == pytest.approx(1 / found.x, rel=1e-5)


def test_where_every_answer_is_right_none_is_best_and_worse_than_chance_gives_the_highest():
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1])) is None
    assert fit_temperature(logits, np.array([1, 0])) == HIGHEST
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, int)) is None


def test_saturated_logits_are_no_trouble():
    logits = np.array([[1e4, 0.0], [0.0, 1e4], [1e4, 0.0]])
    assert fit_temperature(logits, np.array([0, 1, 1])) == HIGHEST


def test_the_wilson_interval_is_the_published_one():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_precision_recall_and_f1_are_those_counted_by_hand():
    labels, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    counts = confusion_matrix(labels, predicted, 3)
    assert counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    first, second, absent = class_rows(counts, ("a", "b", "c"))
    assert (first.support, first.precision, first.recall, first.f1) == (3, 2 / 3, 2 / 3, 2 / 3)
    assert (second.support, second.precision, second.recall, second.f1) == (2, 0.5, 0.5, 0.5)
    assert (absent.support, absent.precision, absent.recall, absent.f1) == (0, None, None, None)
    assert first.recall_interval == wilson(2, 3)


def test_reliability_sorts_by_confidence_and_weighs_gaps_by_examples():
    found = reliability(np.array([0.55, 0.6, 0.95, 1.0]), np.array([True, False, True, True]), bins=10)
    assert found.examples.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert found.ece == pytest.approx((2 * abs(0.5 - 0.575) + 2 * abs(1 - 0.975)) / 4)


def test_its_calibration_error_is_that_of_training():
    tf = pytest.importorskip("tensorflow")
    from rayft.learn.metrics import metric_sums, metrics_from_sums

    logits, labels = sampled(3.0, n=500)
    sums = metric_sums(tf.constant(labels, tf.int32), tf.constant(logits), tf.ones(500, tf.float64)).numpy()
    probabilities = np.exp(log_probabilities(logits))
    found = reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
    assert found.ece == pytest.approx(metrics_from_sums(sums, 5)["ece"], abs=1e-9)
