"""Traps of small data, each against figures worked out by hand."""

import numpy as np
import pytest

from rayft.data.notices import accuracy_notice, batch_norm_notice, class_notices, rate_notice, wilson_half_width


def test_slow_batch_norm_is_said_with_the_part_left_and_the_steps_needed():
    # 0.99^100 = 0.366; 0.99^n <= 0.05 from n = 299 on.
    notice = batch_norm_notice(0.99, 100)
    assert "37% of its moving statistics" in notice
    assert "It takes 299 steps" in notice
    assert batch_norm_notice(0.99, 299) is None
    assert batch_norm_notice(0.99, 298) is not None
    assert batch_norm_notice(0.9, 100) is None


def test_fewer_than_two_training_examples_a_class_is_said():
    labels = ("a", "b", "c")
    validation = np.array([0, 1, 2])
    assert class_notices(np.array([0, 1, 2, 0, 1, 2]), validation, labels) == []
    (notice,) = class_notices(np.array([0, 1, 2, 0, 1]), validation, labels)
    assert notice.startswith("5 training examples for 3 classes")


def test_classes_without_a_validation_example_are_named():
    train = np.repeat([0, 1, 2], 5)
    (notice,) = class_notices(train, np.array([1, 1]), ("ant", "bee", "cat"))
    assert notice.startswith("2 of 3 classes have no validation example: ant, cat.")
    (notice,) = class_notices(train, np.array([], int), ("ant", "bee", "cat"))
    assert "no validation split" in notice


def test_half_of_wilsons_interval_is_that_of_the_textbook():
    # Newcombe 1998, Statistics in Medicine 17, table I: 81/263 gives .2553 to .3662; 0/20 gives 0 to .1611.
    assert wilson_half_width(81 / 263, 263) == pytest.approx((0.3662 - 0.2553) / 2, abs=1e-4)
    assert wilson_half_width(0.0, 20) == pytest.approx(0.1611 / 2, abs=1e-4)


def test_a_small_validation_split_is_said_with_its_uncertainty():
    notice = accuracy_notice(0.8, 100)
    # 1.96 sqrt(.16/100 + 1.96^2/(4 100^2)) / (1 + 1.96^2/100) = .0776
    assert "100 examples" in notice
    assert "7.8 points" in notice
    assert accuracy_notice(0.8, 2000) is None


@pytest.mark.parametrize(
    ("optimizer", "peak", "pretrained", "said"),
    [
        ("adam", 3e-3, True, True),
        ("adam", 3e-4, True, False),
        ("adam", 3e-3, False, False),
        ("sgd", 3e-3, True, False),
        ("sgd", 0.3, True, True),
    ],
)
def test_a_rate_that_overwrites_pretrained_blocks_is_said(optimizer, peak, pretrained, said):
    assert (rate_notice(optimizer, peak, pretrained) is not None) == said
