from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_data_scan import dataset_of, encode

from rayft.config import RunConfig, parse_config
from rayft.data.augment import augment
from rayft.data.dataset import open_dataset
from rayft.data.evaluation_batches import evaluation_batches
from rayft.data.order import batch_positions, steps_per_epoch
from rayft.data.picture import decode_picture
from rayft.data.training_batches import train_batches
from rayft.data.undecodable import find_undecodable

SIZE = (12, 10)
AUGMENT = {"horizontal_flip": True, "crop": 0.2, "rotate": 15, "brightness": 0.1, "hue": 0.05}
PICTURES = Path(__file__).parents[2] / "examples" / "data" / "pictures.parquet"


def config(batch: int = 6, epochs: int = 2, **data) -> RunConfig:
    return parse_config(
        {"seed": 4, "data": {"source": "x", "global_batch_size": batch, **data}, "train": {"epochs": epochs}}
    )


def small_dataset(count: int = 20):
    return dataset_of([encode() for _ in range(count)])


def elements(batches: tf.data.Dataset) -> list[dict[str, np.ndarray]]:
    return list(batches.as_numpy_iterator())


def train(dataset, run, **options):
    return elements(train_batches(dataset, run, SIZE, **{"rank": 0, "num_workers": 1, **options}))


def test_a_batch_equals_what_eager_code_makes_of_the_same_examples():
    dataset, run = small_dataset(), config(augment=AUGMENT)
    batches = train(dataset, run)
    assert len(batches) == 2 * steps_per_epoch(20, 6) == 8
    for step in (0, 3, 5):
        positions = batch_positions(20, 6, 4, step)
        for place, row in enumerate(positions):
            image = decode_picture(tf.constant(dataset.reader.pictures[row]), SIZE, 3)
            want = augment(image, tf.constant([4, step // 4, row], tf.int64), run.data.augment)
            # The compiled graph may fuse what eager code rounds twice.
            np.testing.assert_allclose(batches[step]["image"][place], want, atol=1e-3)
        assert batches[step]["label"][: len(positions)].tolist() == [row % 2 for row in positions]


def test_no_iterator_waits_for_the_tuner_of_tf_data_at_its_end():
    dataset, run = small_dataset(), config()
    for batches in (
        train_batches(dataset, run, SIZE, rank=0, num_workers=1),
        evaluation_batches(dataset, run, SIZE, "train", rank=0, num_workers=1, batch_size=4),
    ):
        assert batches.options().autotune.enabled is False


def test_the_last_batch_is_padded_with_weight_zero():
    last = train(small_dataset(), config())[3]
    assert last["weight"].tolist() == [1, 1, 0, 0, 0, 0]
    assert last["position"].tolist() == [0, 1, 1, 1, 1, 1]
    assert last["count"] == 2
    assert last["step"] == 3
    assert last["image"].shape == (6, *SIZE, 3)
    assert {name: value.dtype.name for name, value in last.items()} == {
        "image": "float32",
        "label": "int32",
        "weight": "float32",
        "position": "int32",
        "count": "float32",
        "step": "int64",
    }


@pytest.mark.parametrize("num_workers", [2, 3])
def test_the_workers_together_see_what_one_worker_sees_bit_for_bit(num_workers):
    dataset, run = small_dataset(), config(batch=7, epochs=1, augment={"horizontal_flip": True, "rotate": 15})
    whole = train(dataset, run)
    parts = [train(dataset, run, rank=rank, num_workers=num_workers, threads=1 + rank) for rank in range(num_workers)]
    for step, batch in enumerate(whole):
        real = {name: [] for name in ("image", "label", "position")}
        for part in parts:
            assert part[step]["count"] == batch["count"]
            kept = part[step]["weight"] == 1
            for name, values in real.items():
                values.append(part[step][name][kept])
        for name, values in real.items():
            np.testing.assert_array_equal(np.concatenate(values), batch[name][batch["weight"] == 1])


def test_starting_at_a_step_gives_the_rest_of_the_run():
    dataset, run = small_dataset(), config(augment=AUGMENT)
    whole, rest = train(dataset, run), train(dataset, run, start_step=5)
    assert [batch["step"] for batch in rest] == [5, 6, 7]
    for a, b in zip(whole[5:], rest, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("batch_size", [4, 50])
def test_evaluation_covers_each_example_once_in_equal_numbers_of_batches(num_workers, batch_size):
    dataset = small_dataset()
    parts = [
        elements(
            evaluation_batches(
                dataset,
                config(augment=AUGMENT),
                SIZE,
                "train",
                rank=rank,
                num_workers=num_workers,
                batch_size=batch_size,
            )
        )
        for rank in range(num_workers)
    ]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in part]
    assert {batch["image"].shape for batch in batches} == {(batch_size, *SIZE, 3)}
    rows = np.concatenate([batch["row"][batch["weight"] == 1] for batch in batches])
    assert rows.tolist() == list(range(20))
    image = decode_picture(tf.constant(dataset.reader.pictures[0]), SIZE, 3)
    np.testing.assert_allclose(batches[0]["image"][0], image, atol=1e-3)


def test_more_workers_than_examples_leave_some_with_padding_alone():
    part = elements(evaluation_batches(small_dataset(3), config(), SIZE, "train", rank=4, num_workers=5, batch_size=2))
    assert [batch["weight"].tolist() for batch in part] == [[0, 0]]


def test_a_picture_that_breaks_the_pipeline_can_be_named():
    pictures = [encode() for _ in range(6)]
    pictures[4] = pictures[4][:-30]
    dataset = dataset_of(pictures)
    with pytest.raises(tf.errors.InvalidArgumentError):
        train(dataset, config())
    assert find_undecodable(dataset, batch_positions(6, 6, 4, 0)) == ["4.png"]


def test_grey_pictures_have_one_channel():
    batches = train(small_dataset(), config(channels=1, augment={"crop": 0.1, "contrast": 0.1}))
    assert batches[0]["image"].shape == (6, *SIZE, 1)


def test_the_demo_data_reaches_the_network(tmp_path):
    run = parse_config({"data": {"source": str(PICTURES), "columns": {"group": "identity"}}})
    dataset = open_dataset(run, tmp_path)
    assert [dataset.size(split) for split in ("train", "test")] == [698 - dataset.size("validation"), 369]
    assert 90 <= dataset.size("validation") <= 120
    assert len(dataset.labels) == 11
    batch = next(train_batches(dataset, run, (32, 32), rank=0, num_workers=1).as_numpy_iterator())
    assert -0.001 < batch["image"].min() < 50 < 200 < batch["image"].max() < 255.001
