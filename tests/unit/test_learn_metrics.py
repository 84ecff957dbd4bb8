import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as oracle

from rayft.learn.losses import cross_entropy, focal
from rayft.learn.metrics import is_better, metric_sums, metrics_from_sums, sums_size

CLASSES = 7


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(203, CLASSES)).astype("float32") * 2
    labels = rng.integers(0, CLASSES - 1, 203).astype("int32")  # The last class has no examples.
    return labels, logits


def compute(labels, logits, parts):
    total = np.zeros(sums_size(CLASSES))
    for rows in np.array_split(np.arange(len(labels)), parts):
        padded = np.append(rows, [0, 0])
        weight = np.append(np.ones(len(rows)), [0, 0]).astype("float32")
        total += metric_sums(tf.constant(labels[padded]), tf.constant(logits[padded]), tf.constant(weight)).numpy()
    return metrics_from_sums(total, CLASSES)


def test_metrics_equal_scikit_learn_on_the_whole_split(split):
    labels, logits = split
    found = compute(labels, logits, 1)
    probabilities = tf.nn.softmax(logits.astype("float64")).numpy()
    predicted = logits.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, predicted), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(labels, predicted, average="macro"), abs=1e-12)
    expected = oracle.log_loss(labels, probabilities, labels=np.arange(CLASSES))
    assert found["log_loss"] == pytest.approx(expected, rel=1e-9)
    expected = oracle.top_k_accuracy_score(labels, logits, k=5, labels=np.arange(CLASSES))
    assert found["top5"] == pytest.approx(expected, abs=1e-12)


def test_calibration_error_equals_its_definition(split):
    labels, logits = split
    probabilities = tf.nn.softmax(logits.astype("float64")).numpy()
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert compute(labels, logits, 1)["ece"] == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_metrics_do_not_depend_on_how_the_split_is_cut_and_padded(split, parts):
    assert compute(*split, parts) == pytest.approx(compute(*split, 1), rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "new", "old", "expected"),
    [
        ("accuracy", (0.5, 9.0), (0.4, 1.0), True),
        ("accuracy", (0.4, 1.0), (0.5, 9.0), False),
        ("accuracy", (0.5, 0.9), (0.5, 1.0), True),
        ("accuracy", (0.5, 1.0), (0.5, 1.0), False),
        ("log_loss", (0.1, 0.4), (0.9, 0.5), True),
        ("log_loss", (0.9, 0.5), (0.1, 0.4), False),
    ],
)
def test_the_better_epoch_has_the_better_metric_or_at_equal_ones_the_lower_log_loss(metric, new, old, expected):
    new, old = (dict(zip(("accuracy", "log_loss"), values, strict=True)) for values in (new, old))
    assert is_better(metric, new, old) is expected
    assert is_better(metric, new, None)


def test_smoothed_cross_entropy_is_that_of_the_mixed_target():
    logits = tf.constant([[1.0, 2.0, 0.5, -1.0]])
    log_p = tf.nn.log_softmax(logits)[0].numpy()
    expected = -(0.9 * log_p[1] + 0.1 * log_p.mean())
    assert cross_entropy(tf.constant([1]), logits, smoothing=0.1).numpy()[0] == pytest.approx(expected, rel=1e-6)


def test_focal_loss_weights_cross_entropy_by_the_missing_probability():
    logits = tf.constant([[1.0, 2.0, 0.5]])
    p = tf.nn.softmax(logits)[0, 1].numpy()
    assert focal(tf.constant([1]), logits).numpy()[0] == pytest.approx(-((1 - p) ** 2) * np.log(p), rel=1e-5)
