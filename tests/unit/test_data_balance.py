from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from rayft.config import parse_config
from rayft.data.balance import balanced_order, class_members, class_weights, make_order
from rayft.data.target import Targets
from rayft.errors import ConfigError

LABELS = np.repeat([0, 1, 2], [60, 30, 10]).astype(np.int32)
TARGETS = Targets(LABELS, None, 3)
SETS = [[0], [0, 1], [], [1, 2], [0], [0]]
SEVERAL = Targets.of(pa.chunked_array([pa.array(SETS, pa.list_(pa.int32()))]), 3)


def config(**sections):
    return parse_config(
        {"seed": 5, "data": {"source": "x", **sections.get("data", {})}, "train": sections.get("train", {})}
    )


def test_a_balanced_epoch_has_each_class_equally_often_and_repeats_evenly():
    order = balanced_order(class_members(TARGETS), 100, seed=1, epoch=0)
    assert sorted(Counter(LABELS[order.examples].tolist()).values()) == [33, 33, 34]
    times = Counter(order.examples.tolist())
    assert {times[n] for n in range(60)} == {0, 1}
    assert {times[n] for n in range(60, 90)} == {1, 2}
    assert {times[n] for n in range(90, 100)} <= {3, 4}
    # An example and its repetition number never come twice: each draw of augmentation is new.
    pairs = list(zip(order.examples.tolist(), order.repeats.tolist(), strict=True))
    assert len(set(pairs)) == 100


def test_a_balanced_epoch_is_a_function_of_seed_and_epoch_alone():
    orders = [make_order(config(data={"sampling": "balanced"}), TARGETS) for _ in range(2)]
    for epoch in (3, 0, 7):
        np.testing.assert_array_equal(orders[0](epoch).examples, orders[1](epoch).examples)
    assert not np.array_equal(orders[0](0).examples, orders[0](1).examples)
    other = balanced_order(class_members(TARGETS), 100, seed=6, epoch=0)
    assert not np.array_equal(orders[0](0).examples, other.examples)


def test_sets_of_labels_are_balanced_by_class_and_the_empty_set_is_one():
    assert [group.tolist() for group in class_members(SEVERAL)] == [[0, 1, 4, 5], [1, 3], [3], [2]]
    order = balanced_order(class_members(SEVERAL), 6, seed=0, epoch=0)
    assert len(order.examples) == 6
    assert {2, 3} <= set(order.examples.tolist())


def test_targets_are_dense_rows_of_zeros_and_ones():
    expected = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], np.float32)
    np.testing.assert_array_equal(SEVERAL.take(np.array([1, 2, 3])), expected)
    assert SEVERAL.counts().tolist() == [4, 2, 1]
    assert len(SEVERAL) == 6


@pytest.mark.parametrize(
    ("targets", "wanted", "expected"),
    [
        (TARGETS, "balanced", [100 / 180, 100 / 90, 100 / 30]),
        (TARGETS, {"b": 3.0}, [1, 3, 1]),
        (SEVERAL, "balanced", [2 / 4, 4 / 2, 5 / 1]),
    ],
)
def test_class_weights_follow_their_closed_form(targets, wanted, expected):
    found = class_weights(config(train={"class_weights": wanted}), targets, ("a", "b", "c"))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_weight_of_no_class_is_refused():
    with pytest.raises(ConfigError, match="'d'; the classes are a, b, c"):
        class_weights(config(train={"class_weights": {"d": 2}}), TARGETS, ("a", "b", "c"))
    assert class_weights(config(), TARGETS, ("a", "b", "c")) is None
