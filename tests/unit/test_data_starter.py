import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from rayft.config import parse_config
from rayft.data.dataset import open_dataset
from rayft.data.starter import Choice, choose, notes_on, render, with_given
from rayft.data.survey import Duplicate, Survey, survey

SURVEY = Survey(
    source="birds.parquet",
    labels=("jay", "kite"),
    multi_label=False,
    sizes={"train": 500, "validation": 80, "test": 0},
    test_fraction=0.0,
    class_counts=(250, 250),
    median_side=300,
    colourless=False,
    bad={},
    duplicates=(),
    group_column=None,
)


def changed(**changes):
    return Survey(**{**{name: getattr(SURVEY, name) for name in SURVEY.__dataclass_fields__}, **changes})


def chosen(found, cpus=2):
    return {choice.field: choice.value for choice in choose(found, cpus)}


def png(seed, side=20):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return parse_config({"data": {"source": str(path), "cache_folder": str(path.parent / "cache")}})


def test_what_is_written_is_a_config_that_holds_every_choice():
    choices = choose(changed(group_column="identity", bad={"a.png": "is empty"}), 4)
    config = parse_config(yaml.safe_load(render(choices, notes_on(SURVEY))))
    assert config.name == "birds"
    assert (config.data.columns.group, config.data.on_bad) == ("identity", "skip")
    assert (config.cluster.workers, config.cluster.cpus_per_worker) == (1, 4)


def test_every_value_has_its_reason_above_it():
    lines = render([Choice("train.epochs", 3, "Three are enough."), Choice("train.metric", "auc", "Ranks.")], ["Note."])
    assert lines.splitlines() == [
        "# Note.",
        "",
        "train:",
        "  # Three are enough.",
        "  epochs: 3",
        "  # Ranks.",
        "  metric: auc",
    ]


def test_few_examples_train_the_head_alone_and_many_also_the_last_blocks():
    few, many = chosen(SURVEY), chosen(changed(sizes={"train": 30_000, "validation": 1, "test": 1}))
    assert few["freeze.depth"] == "all"
    assert 900 <= few["train.epochs"] * 500 / 32 <= 2_000
    assert many["freeze.depth"] == 0.7
    assert many["data.augment.horizontal_flip"] is True
    assert many["data.global_batch_size"] == 64


def test_very_uneven_classes_are_balanced_and_even_ones_are_not():
    assert "train.class_weights" not in chosen(SURVEY)
    uneven = changed(class_counts=(450, 20))
    assert chosen(uneven)["train.class_weights"] == "balanced"
    assert chosen(uneven)["train.metric"] == "macro_f1"
    assert any("'jay' has 450 training examples, 'kite' 20" in note for note in notes_on(uneven))


def test_several_labels_are_judged_by_mean_average_precision():
    assert chosen(changed(multi_label=True))["train.metric"] == "map"


def test_duplicates_across_splits_are_named_with_contrary_labels():
    pair = Duplicate("a.png", "b.png", ("train", "test"), same_label=False)
    (note,) = [note for note in notes_on(changed(duplicates=(pair,))) if "two splits" in note]
    assert "1 pictures occur in two splits, 1 of them under another label: a.png (train) = b.png (test)" in note


def test_what_the_user_gives_takes_the_place_of_a_choice():
    choices = with_given(choose(SURVEY, 2), {"data": {"source": "x", "global_batch_size": 4}, "train": {"epochs": 1}})
    values = {choice.field: choice.value for choice in choices}
    assert (values["train.epochs"], values["data.global_batch_size"]) == (1, 4)
    assert values["data.source"] == "birds.parquet"
    assert len(values) == len(choices)


def test_a_survey_sees_sizes_damage_duplicates_and_counts(tmp_path):
    pictures = [png(seed, side=20 + 2 * (seed % 2)) for seed in range(40)]
    pictures[39] = pictures[0]
    pictures[5] = b"no picture"
    split = ["train"] * 30 + ["test"] * 10
    config = write(tmp_path / "t.parquet", image=pictures, label=["a", "b"] * 20, split=split)
    found = survey(config, lambda text: None)
    assert (found.median_side, found.colourless, found.multi_label) == (20, False, False)
    assert list(found.bad.items()) == [("t.parquet#5", "is not a picture")]
    assert {(pair.first, pair.second, pair.same_label) for pair in found.duplicates} == {
        ("t.parquet#0", "t.parquet#39", False)
    }
    assert sum(found.sizes.values()) == 40
    assert found.test_fraction == 0


def test_a_test_split_is_set_apart_where_there_is_none_and_counted_as_it_will_be(tmp_path):
    config = write(tmp_path / "t.parquet", image=[png(n, side=4) for n in range(300)], label=["a", "b"] * 150)
    found = survey(config, lambda text: None)
    assert found.test_fraction == 0.15
    written = parse_config(yaml.safe_load(render(choose(found, 1), [])))
    cached = written.data.model_copy(update={"cache_folder": str(tmp_path / "cache")})
    dataset = open_dataset(written.model_copy(update={"data": cached}))
    assert found.sizes == {split: dataset.size(split) for split in ("train", "validation", "test")}
    assert found.sizes["test"] == 45
    assert found.class_counts == tuple(dataset.targets("train").counts())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([n // 4 for n in range(40)], "who"),  # Ten things, four pictures of each.
        (list(range(40)), None),  # Nothing repeats.
        ([n % 4 for n in range(40)], None),  # Both labels of one value.
        ([n // 25 for n in range(40)], None),  # As few values as classes.
    ],
)
def test_a_column_of_identities_is_found_by_what_it_holds(values, expected, tmp_path):
    labels = ["a" if n < 20 else "b" for n in range(40)]
    config = write(tmp_path / "t.parquet", image=[png(n) for n in range(40)], label=labels, who=values)
    assert survey(config, lambda text: None).group_column == expected
