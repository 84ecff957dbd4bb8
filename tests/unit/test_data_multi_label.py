import json

import numpy as np
import pyarrow as pa
import pytest
from test_data_dataset import config, picture, table, write, write_folder

from rayft.data.dataset import open_dataset
from rayft.data.stratify import draw_stratified
from rayft.data.target import Targets
from rayft.errors import DataError

SETS = [["cat"], ["cat", "dog"], [], ["dog"]] * 3
NUMBERS = [[0], [0, 1], [], [1]] * 3


@pytest.fixture
def open_(tmp_path):
    return lambda source, **data: open_dataset(config(source, **data), tmp_path / "cache")


def write_csv(folder, cells):
    write_folder(folder, [f"{n}.png" for n in range(len(cells))])
    rows = [f'{n}.png,"{cell}"' for n, cell in enumerate(cells)]
    (folder / "a.csv").write_text("\n".join(["path,labels", *rows]) + "\n")
    return folder / "a.csv"


def test_lists_bars_and_json_cells_give_the_same_sets(tmp_path, open_):
    lists = open_(write(table(label=None, labels=pa.array(SETS)), tmp_path / "a.parquet"))
    bars = open_(write_csv(tmp_path / "bars", [" | ".join(labels) for labels in SETS]))
    cells = [json.dumps(labels).replace('"', '""') for labels in SETS]
    for dataset in (lists, bars, open_(write_csv(tmp_path / "json", cells))):
        assert dataset.multi_label
        assert dataset.labels == ("cat", "dog")
        assert dataset.examples["label"].to_pylist() == NUMBERS


def test_numbers_take_their_names_from_the_features(tmp_path, open_):
    content = table(label=None, labels=pa.array(NUMBERS)).replace_schema_metadata({"classes": '["zebra", "ant"]'})
    dataset = open_(write(content, tmp_path / "a.parquet"), validation_fraction=0)
    assert dataset.labels == ("zebra", "ant")
    assert dataset.targets("train").take(np.array([1, 2])).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("columns", "data", "message"),
    [
        ({"labels": pa.array(SETS)}, {}, "Both 'labels' and 'label'"),
        ({"label": None, "labels": pa.array([None, *SETS[1:]])}, {}, r"Row 0 has no labels \(null\)"),
        ({"label": None, "labels": [3] * 12}, {}, "of type int64"),
        ({"label": None, "labels": pa.array([[]] * 12, pa.list_(pa.string()))}, {}, "No example has a label"),
        ({"label": None, "labels": ['["cat"'] * 12}, {}, "Row 0 has the labels .* none"),
        ({"label": None, "labels": pa.array([["cat", None]] * 12)}, {}, "have no label"),
        (
            {"label": None, "labels": pa.array(SETS), "names": ["x"] * 12},
            {"columns": {"label_name": "names"}},
            "label_name is 'names'",
        ),
    ],
)
def test_a_wrong_column_of_labels_is_refused(tmp_path, open_, columns, data, message):
    with pytest.raises(DataError, match=message):
        open_(write(table(**columns), tmp_path / "a.parquet"), **data)


def test_iterative_stratification_gives_every_label_its_share():
    random = np.random.default_rng(0)
    sets = [np.flatnonzero(random.random(4) < (0.5, 0.2, 0.1, 0.02)).tolist() for _ in range(1000)]
    targets = Targets.of(pa.chunked_array([pa.array(sets, pa.list_(pa.int32()))]), 4)
    members = {str(n): [n] for n in random.permutation(1000)}
    held_out = draw_stratified(members, targets, 0.2)
    assert abs(held_out.sum() - 200) <= 5
    inside = np.bincount(targets.numbers[held_out[targets.owners()]], minlength=4)
    # A plain draw of 200 misses these by several standard deviations of about 5 for the frequent labels.
    np.testing.assert_allclose(inside, targets.counts() * 0.2, atol=2)


def test_groups_are_not_torn_and_no_label_leaves_the_training_part():
    sets = [[0], [0], [1], [0, 1], [2]] * 4 + [[3]]
    targets = Targets.of(pa.chunked_array([pa.array(sets, pa.list_(pa.int32()))]), 4)
    members = {str(n): list(range(5 * n, 5 * n + 5)) for n in range(4)} | {"rare": [20]}
    held_out = draw_stratified(members, targets, 0.5)
    assert all(len(set(held_out[examples].tolist())) == 1 for examples in members.values())
    assert held_out[:20].sum() == 10
    assert not held_out[20]


def test_the_multi_label_split_does_not_depend_on_the_order_of_rows(tmp_path, open_):
    names = [f"{n}.png" for n in range(40)]
    sets = [["cat"] if n % 3 else ["cat", "dog"] for n in range(40)]
    write_folder(tmp_path / "d", names)

    def splits(order):
        rows = [json.dumps({"path": names[n], "labels": sets[n]}) for n in order]
        (tmp_path / "d" / "a.jsonl").write_text("\n".join(rows) + "\n")
        examples = open_(tmp_path / "d" / "a.jsonl", validation_fraction=0.25).examples
        return dict(zip(examples["name"].to_pylist(), examples["split"].to_pylist(), strict=True))

    first = splits(range(40))
    assert first == splits(range(39, -1, -1))
    assert list(first.values()).count("validation") == 10
    assert picture(0)
