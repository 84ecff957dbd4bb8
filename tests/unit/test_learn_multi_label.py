import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as oracle

from rayft.evaluation.ranking import LOG_ODDS_LIMIT, MOST_BINS, num_bins
from rayft.learn import metrics, multi_label
from rayft.learn.losses import binary_cross_entropy
from rayft.learn.ranking import softmax_log_odds

CLASSES = 5


@pytest.fixture(scope="module")
def split():
    random = np.random.default_rng(1)
    labels = (random.random((301, CLASSES)) < 0.3).astype("float32")
    labels[:, 4] = 0  # No example has the last class.
    logits = (random.normal(size=labels.shape) * 2 + labels).astype("float32")
    return labels, logits


def compute(kind, labels, logits, parts=1):
    total = np.zeros(kind.sums_size(logits.shape[1]))
    for rows in np.array_split(np.arange(len(labels)), parts):
        padded = np.append(rows, [0, 0])
        weight = np.append(np.ones(len(rows)), [0, 0]).astype("float32")
        total += kind.metric_sums(tf.constant(labels[padded]), tf.constant(logits[padded]), tf.constant(weight)).numpy()
    return kind.metrics_from_sums(total, logits.shape[1])


def binned(log_odds):
    """Scores at the documented resolution."""
    return np.clip(np.floor((log_odds.astype("float64") + LOG_ODDS_LIMIT) * 32), 0, MOST_BINS - 1)


def test_metrics_of_several_labels_equal_scikit_learn(split):
    labels, logits = split
    found = compute(multi_label, labels, logits)
    predicted, present = logits > 0, slice(0, 4)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, predicted), abs=1e-12)
    f1 = oracle.f1_score(labels, predicted, average=None, zero_division=0)
    assert found["macro_f1"] == pytest.approx(f1.mean(), abs=1e-12)
    losses = [
        oracle.log_loss(labels[:, n], 1 / (1 + np.exp(-logits[:, n].astype("float64"))), labels=[0, 1])
        for n in range(CLASSES)
    ]
    assert found["log_loss"] == pytest.approx(np.mean(losses), rel=1e-9)
    scores = binned(logits)
    auc = oracle.roc_auc_score(labels[:, present], scores[:, present], average="macro")
    assert found["auc"] == pytest.approx(auc, abs=1e-12)
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(labels[:, present], logits[:, present]), abs=2e-3)
    precision = oracle.average_precision_score(labels[:, present], scores[:, present], average="macro")
    assert found["map"] == pytest.approx(precision, abs=1e-12)


def test_auc_of_one_label_is_that_of_each_class_against_the_rest():
    random = np.random.default_rng(2)
    labels = random.integers(0, CLASSES, 400).astype("int32")
    logits = (random.normal(size=(400, CLASSES)) * 2 + np.eye(CLASSES)[labels]).astype("float32")
    probabilities = tf.nn.softmax(logits.astype("float64")).numpy()
    expected = oracle.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert compute(metrics, labels, logits)["auc"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("parts", [2, 7, 100])
def test_the_number_of_parts_changes_nothing(split, parts):
    labels, logits = split
    assert compute(multi_label, labels, logits, parts) == pytest.approx(compute(multi_label, labels, logits), rel=1e-12)
    first, again = (compute(multi_label, labels, logits, count)["auc"] for count in (1, parts))
    assert first == again


def test_log_odds_stay_exact_for_extreme_probabilities():
    logits = tf.constant([[40.0, 0.0], [-3.0, 1.0]], tf.float64)
    np.testing.assert_allclose(softmax_log_odds(logits)[1], [-4, 4], rtol=1e-12)
    assert softmax_log_odds(logits)[0, 1].numpy() == pytest.approx(-40)
    assert softmax_log_odds(logits)[0, 0].numpy() > LOG_ODDS_LIMIT


def test_without_a_class_that_can_be_ranked_the_area_is_that_of_chance():
    labels, logits = np.zeros((3, 2), "float32"), np.ones((3, 2), "float32")
    found = compute(multi_label, labels, logits)
    assert (found["auc"], found["map"], found["macro_f1"]) == (0.5, 0.0, 0.0)
    assert (num_bins(1000), num_bins(100_000)) == (1024, 64)


def test_binary_cross_entropy_is_the_mean_over_classes():
    logits, target = np.array([[1.5, -0.5, 0.2]]), np.array([[1.0, 0.0, 1.0]])
    p = 1 / (1 + np.exp(-logits))
    expected = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    assert binary_cross_entropy(tf.constant(target), tf.constant(logits)).numpy()[0] == pytest.approx(expected)
    smooth = target * 0.8 + 0.1
    expected = -(smooth * np.log(p) + (1 - smooth) * np.log(1 - p)).mean()
    found = binary_cross_entropy(tf.constant(target), tf.constant(logits), smoothing=0.2).numpy()[0]
    assert found == pytest.approx(expected)
    weights = np.array([2.0, 5.0, 3.0])
    expected = -(weights * target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    found = binary_cross_entropy(tf.constant(target), tf.constant(logits), class_weights=weights).numpy()[0]
    assert found == pytest.approx(expected)
    classes = tf.constant([2])
    one_hot = binary_cross_entropy(tf.constant([[0.0, 0.0, 1.0]], tf.float64), tf.constant(logits))
    assert binary_cross_entropy(classes, tf.constant(logits)).numpy()[0] == pytest.approx(one_hot.numpy()[0])
