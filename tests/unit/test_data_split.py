import numpy as np
import pyarrow as pa
import pytest

from rayft.config import DataConfig
from rayft.data.split import assign_splits
from rayft.data.target import Targets
from rayft.errors import DataError

CLASSES = ("a", "b", "c")
# 60, 30 and 10 examples: a class of each size.
LABELS = np.repeat([0, 1, 2], [60, 30, 10])
NAMES = [f"{n}.png" for n in range(100)]


def split(labels=LABELS, names=NAMES, given=None, groups=None, **data) -> np.ndarray:
    config = DataConfig(source="x", **data)
    return assign_splits(
        Targets(np.asarray(labels), None, len(CLASSES)),
        CLASSES,
        names,
        None if given is None else pa.array(given),
        None if groups is None else pa.array(groups),
        config,
    )


def test_a_fraction_is_taken_class_by_class():
    splits = split(validation_fraction=0.2, test_fraction=0.1)
    assert np.bincount(LABELS[splits == "validation"]).tolist() == [12, 6, 2]
    assert np.bincount(LABELS[splits == "test"]).tolist() == [6, 3, 1]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows():
    first = split(validation_fraction=0.2)
    order = np.random.default_rng(0).permutation(100)
    again = split(LABELS[order], [NAMES[n] for n in order], validation_fraction=0.2)
    assert np.array_equal(again, first[order])
    assert not np.array_equal(split(validation_fraction=0.2, split_seed=1), first)


def test_given_splits_stand_and_only_what_is_missing_is_drawn_from_train():
    given = ["test" if n % 2 else "train" for n in range(100)]
    splits = split(given=given, validation_fraction=0.2, test_fraction=0.3)
    assert [value == "test" for value in splits] == [value == "test" for value in given]
    assert np.bincount(LABELS[splits == "validation"]).tolist() == [6, 3, 1]


def test_a_group_never_falls_into_two_splits():
    groups = [n // 3 for n in range(100)]
    splits = split(groups=groups, validation_fraction=0.2, test_fraction=0.2)
    for group in set(groups):
        assert len({splits[n] for n in range(100) if groups[n] == group}) == 1
    counts = {name: int((splits == name).sum()) for name in ("validation", "test")}
    assert all(15 <= count <= 25 for count in counts.values()), counts


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.98])
def test_every_class_keeps_a_training_example(fraction):
    splits = split(validation_fraction=fraction)
    assert set(LABELS[splits == "train"]) == {0, 1, 2}
    assert (splits == "validation").any()


def test_a_class_that_lies_in_one_group_is_not_held_out_whole():
    groups = ["x"] * 60 + [str(n) for n in range(40)]
    splits = split(groups=groups, validation_fraction=0.6)
    assert set(splits[:60]) == {"train"}


def test_a_null_group_is_refused():
    with pytest.raises(DataError, match="Row 1 has no group"):
        split(groups=["a", None] * 50)
