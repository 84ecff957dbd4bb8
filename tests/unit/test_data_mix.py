import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_data_picture import encode
from test_data_pipeline import SIZE, config, elements, small_dataset
from test_data_scan import dataset_of

from rayft.config import AugmentConfig
from rayft.data.augment import augment
from rayft.data.draws import operation_key
from rayft.data.mix import draw_mix, mix_batch, partner_indices, with_partners
from rayft.data.order import batch_positions
from rayft.data.picture import decode_picture
from rayft.data.training_batches import train_batches

BOTH = {"mixup": 0.4, "cutmix": 1.0, "brightness": 0.2}


def keys(count: int) -> list[tf.Tensor]:
    return [tf.constant([5, number], tf.int64) for number in range(count)]


def test_partners_are_mutual_and_padding_and_the_odd_last_have_none():
    assert partner_indices(np.arange(8), 5).tolist() == [1, 0, 3, 2, 4, 5, 6, 7]
    assert partner_indices(np.arange(6), 6).tolist() == [1, 0, 3, 2, 5, 4]
    # Any order, padding marked by the batch size, and a partner that is not there.
    assert partner_indices(np.array([3, 9, 9, 2, 5]), 9).tolist() == [3, 1, 2, 0, 4]


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("stop", range(5, 8))
def test_a_slice_lacks_at_most_the_partners_at_its_ends(start, stop):
    own = np.arange(start, stop)
    fetched = with_partners(own, 7)
    assert fetched[: len(own)].tolist() == own.tolist()
    assert {position ^ 1 for position in own if position ^ 1 < 7} <= set(fetched)
    assert len(fetched) - len(own) == start % 2 + stop % 2 * (stop < 7)


def test_the_part_of_mixup_is_beta_distributed():
    draw = tf.function(lambda key: draw_mix(key, (8, 8), AugmentConfig(mixup=0.5)))
    parts = np.array([draw(key).numpy() for key in keys(300)])
    np.testing.assert_array_equal(parts[:, 0], parts[:, 1])
    assert not parts[:, 2:].any()
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
    assert np.mean(parts[:, 0]) == pytest.approx(0.5, abs=0.06)
    assert np.var(parts[:, 0]) == pytest.approx(1 / 8, abs=0.02)


def test_a_small_alpha_gives_no_nan():
    draw = tf.function(lambda key: draw_mix(key, (8, 8), AugmentConfig(mixup=0.01)))
    parts = np.array([draw(key).numpy()[0] for key in keys(200)])
    assert np.all((parts >= 0) & (parts <= 1))


def test_the_target_of_cutmix_is_the_area_that_is_left():
    draw = tf.function(lambda key: draw_mix(key, (20, 10), AugmentConfig(cutmix=1.0)))
    for key in keys(40):
        pixel, target, top, bottom, left, right = draw(key).numpy()
        assert pixel == 1
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 10
        assert target == pytest.approx(1 - (bottom - top) * (right - left) / 200)


def test_probabilities_say_how_many_are_mixed_and_how_many_are_cut():
    both = AugmentConfig(mixup=1.0, cutmix=1.0, mix_probability=0.5, switch_probability=0.25)
    draw = tf.function(lambda key: draw_mix(key, (64, 64), both))
    drawn = np.array([draw(key).numpy() for key in keys(300)])
    mixed = drawn[:, 1] < 1
    assert np.mean(mixed) == pytest.approx(0.5, abs=0.08)
    assert np.mean(drawn[mixed, 0] == 1) == pytest.approx(0.25, abs=0.08)


def test_mixing_by_hand():
    images = tf.constant(np.arange(4.0)[:, None, None, None] * np.ones((4, 2, 2, 1)), tf.float32)
    mix = tf.constant([[0.25, 0.25, 0, 0, 0, 0], [1, 0.5, 0, 1, 0, 2], [0.5, 0.5, 0, 0, 0, 0], [0.7, 0.7, 0, 0, 0, 0]])
    partner = tf.constant([1, 0, 2, 2])
    mixed, targets = mix_batch(images, tf.constant([0, 1, 2, 0]), mix, partner, 3, 3)
    np.testing.assert_allclose(mixed[0], np.full((2, 2, 1), 0.75))
    # A box over the upper row, taken from picture 0.
    assert mixed[1, ..., 0].numpy().tolist() == [[0, 0], [1, 1]]
    # Its own partner stays as it is.
    np.testing.assert_array_equal(mixed[2], images[2])
    np.testing.assert_allclose(targets, [[0.25, 0.75, 0], [0.5, 0.5, 0], [0, 0, 1]])


def test_the_pipeline_mixes_each_picture_with_its_neighbour_in_the_global_batch():
    dataset, run = small_dataset(), config(batch=7, epochs=1, augment=BOTH)
    batches = elements(train_batches(dataset, run, SIZE, rank=0, num_workers=1))
    for step in (1, 2):
        positions = batch_positions(20, 7, 4, step)
        seeds = [tf.constant([4, 0, row], tf.int64) for row in positions]
        views = [
            augment(decode_picture(tf.constant(dataset.reader.pictures[row]), SIZE, 3), seed, run.data.augment)
            for row, seed in zip(positions, seeds, strict=True)
        ]
        for place, partner in enumerate(partner_indices(np.arange(len(positions)), len(positions))):
            pixel, target, top, bottom, left, right = draw_mix(
                operation_key(seeds[place], "mix"), SIZE, run.data.augment
            ).numpy()
            want = views[place].numpy() * pixel + views[partner].numpy() * (1 - pixel)
            box = slice(int(top), int(bottom)), slice(int(left), int(right))
            want[box] = views[partner].numpy()[box]
            labels = np.eye(2)[positions % 2]
            wanted = labels[place] * target + labels[partner] * (1 - target)
            np.testing.assert_allclose(batches[step]["image"][place], want, atol=2e-3)
            np.testing.assert_allclose(batches[step]["label"][place], wanted, atol=1e-6)


def test_mixed_pictures_and_targets_do_not_depend_on_the_number_of_workers():
    dataset, run = small_dataset(), config(batch=7, epochs=1, augment={"mixup": 0.4, "cutmix": 1.0})
    whole = elements(train_batches(dataset, run, SIZE, rank=0, num_workers=1))
    for num_workers in (2, 3):
        parts = [
            elements(train_batches(dataset, run, SIZE, rank=rank, num_workers=num_workers, threads=1 + rank))
            for rank in range(num_workers)
        ]
        for step, batch in enumerate(whole):
            for name in ("image", "label", "position"):
                together = np.concatenate([part[step][name][part[step]["weight"] == 1] for part in parts])
                np.testing.assert_array_equal(together, batch[name][batch["weight"] == 1])
            assert {part[step]["image"].shape[0] for part in parts} == {-(-7 // num_workers)}
            assert all(np.allclose(part[step]["label"].sum(axis=1), 1) for part in parts)


def test_padding_takes_part_in_no_mixture():
    # Five black pictures, then padding: a mixture with anything else would not be black.
    black = encode(Image.new("RGB", (16, 16)), "PNG")
    run = config(batch=8, epochs=1, augment={"mixup": 1.0})
    (batch,) = elements(train_batches(dataset_of([black] * 5), run, SIZE, rank=0, num_workers=1))
    assert batch["weight"].tolist() == [1] * 5 + [0] * 3
    np.testing.assert_allclose(batch["image"], 0, atol=1e-3)
    last = int(np.flatnonzero(batch["weight"] == 1)[-1])
    assert sorted(batch["label"][last].tolist()) == [0, 1]
