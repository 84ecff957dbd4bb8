import math

import numpy as np
import pytest
import tensorflow as tf

from rayft.config import AugmentConfig, DataConfig
from rayft.data.augment import augment, crop, rotate, scale_contrast, scale_saturation
from rayft.errors import ConfigError

EVERYTHING = AugmentConfig(
    horizontal_flip=True,
    vertical_flip=True,
    crop=0.3,
    rotate=20,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.1,
)


def picture(side: int = 9) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).uniform(20, 230, (side, side, 3)), tf.float32)


def seeds(count: int) -> list[tf.Tensor]:
    return [tf.constant([3, 1, example], tf.int64) for example in range(count)]


@pytest.mark.parametrize(("field", "axis"), [("horizontal_flip", 1), ("vertical_flip", 0)])
def test_a_flip_mirrors_about_half_of_the_pictures(field, axis):
    image = picture().numpy()
    results = [
        augment(image_, seed, AugmentConfig(**{field: True})).numpy()
        for image_, seed in ((tf.constant(image), seed) for seed in seeds(60))
    ]
    mirrored = [np.array_equal(result, np.flip(image, axis)) for result in results]
    untouched = [np.array_equal(result, image) for result in results]
    assert all(a != b for a, b in zip(mirrored, untouched, strict=True))
    assert 15 < sum(mirrored) < 45


def test_no_augmentation_changes_nothing():
    np.testing.assert_array_equal(augment(picture(), seeds(1)[0], AugmentConfig()), picture())


def test_a_crop_of_nothing_is_the_picture():
    np.testing.assert_allclose(crop(picture(), tf.constant([0.0, 0.0, 0.5, 0.5]), 0.3), picture(), atol=1e-4)


def test_a_crop_of_half_stretches_the_corner_that_is_left():
    ramp = tf.tile(tf.range(9, dtype=tf.float32)[None, :, None], [9, 1, 3])
    # Largest cut of both sides, from the top left: columns 0..4 spread over 9 pixels.
    left = crop(ramp, tf.constant([1.0, 1.0, 0.0, 0.0]), 0.5)
    np.testing.assert_allclose(left[0, :, 0], np.arange(9) / 2, atol=1e-5)
    right = crop(ramp, tf.constant([1.0, 1.0, 1.0, 1.0]), 0.5)
    np.testing.assert_allclose(right[0, :, 0], 4 + np.arange(9) / 2, atol=1e-5)


@pytest.mark.parametrize("side", [8, 9])
def test_a_quarter_turn_equals_rot90(side):
    np.testing.assert_allclose(rotate(picture(side), tf.constant(math.pi / 2)), np.rot90(picture(side)), atol=0.05)


def test_contrast_leaves_a_constant_picture_and_scales_the_spread():
    constant = tf.fill([4, 4, 3], 70.0)
    np.testing.assert_allclose(scale_contrast(constant, tf.constant(1.7)), constant)
    spread = scale_contrast(picture(), tf.constant(0.5)).numpy().std(axis=(0, 1))
    np.testing.assert_allclose(spread, picture().numpy().std(axis=(0, 1)) / 2, rtol=1e-4)


def test_saturation_leaves_grey_and_at_zero_removes_colour():
    grey = tf.tile(picture()[..., :1], [1, 1, 3])
    np.testing.assert_allclose(scale_saturation(grey, tf.constant(1.4)), grey, rtol=1e-5)
    luma = (picture().numpy() @ [0.299, 0.587, 0.114])[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(scale_saturation(picture(), tf.constant(0.0)), luma, rtol=1e-5)


def test_brightness_shifts_all_pixels_alike_within_its_bound():
    shifts = []
    for seed in seeds(20):
        difference = (augment(tf.fill([4, 4, 3], 127.0), seed, AugmentConfig(brightness=0.1)) - 127.0).numpy()
        assert np.ptp(difference) < 1e-4
        shifts.append(difference.mean())
    assert max(np.abs(shifts)) <= 25.5
    assert min(shifts) < -5 < 5 < max(shifts)


def test_hue_turns_by_the_same_angle_as_tf_image():
    turned = augment(picture(), seeds(1)[0], AugmentConfig(hue=0.2)).numpy()
    # The angle from red, read off one pixel; the rest must follow from it.
    probe = augment(tf.constant([[[200.0, 100.0, 100.0]]]), seeds(1)[0], AugmentConfig(hue=0.2)) / 255
    angle = tf.image.rgb_to_hsv(probe).numpy()[0, 0, 0]
    want = tf.image.adjust_hue(picture() / 255, angle if angle < 0.5 else angle - 1) * 255
    np.testing.assert_allclose(turned, want, atol=0.05)
    assert 0.01 < min(angle, 1 - angle) <= 0.2


def test_the_same_example_and_epoch_give_the_same_bits_in_any_batch():
    images = [picture() + example for example in range(12)]

    def run(order: list[int], batch_size: int, threads: int) -> dict[int, np.ndarray]:
        rows = tf.data.Dataset.from_tensor_slices((tf.stack([images[i] for i in order]), order))
        mapped = rows.map(
            lambda image, row: (augment(image, tf.stack([5, 2, row]), EVERYTHING), row), num_parallel_calls=threads
        )
        return {
            int(row): image
            for batch, ids in mapped.batch(batch_size).as_numpy_iterator()
            for image, row in zip(batch, ids, strict=True)
        }

    one, other = run(list(range(12)), 4, 1), run(list(range(11, -1, -1)), 5, 2)
    for row in range(12):
        np.testing.assert_array_equal(one[row], other[row])


def test_epoch_example_and_run_seed_each_change_the_draw():
    results = [
        augment(picture(), tf.constant(seed, tf.int64), EVERYTHING).numpy()
        for seed in ([3, 1, 7], [4, 1, 7], [3, 2, 7], [3, 1, 8])
    ]
    for first in range(4):
        for second in range(first):
            assert not np.allclose(results[first], results[second])


def test_switching_one_operation_on_leaves_the_draws_of_another():
    alone = augment(tf.fill([4, 4, 3], 100.0), seeds(1)[0], AugmentConfig(brightness=0.1))
    both = augment(tf.fill([4, 4, 3], 100.0), seeds(1)[0], AugmentConfig(brightness=0.1, crop=0.3, contrast=0.2))
    np.testing.assert_allclose(alone, both, atol=1e-3)


def test_results_stay_in_range():
    bright = AugmentConfig(brightness=1.0, contrast=0.9, saturation=0.9, hue=0.5)
    results = np.stack([augment(picture(), seed, bright).numpy() for seed in seeds(20)])
    assert results.min() >= 0
    assert results.max() <= 255


def test_colour_changes_of_grey_pictures_are_refused():
    with pytest.raises(ConfigError, match=r"hue 0\.1.*data\.channels is 1"):
        augment(tf.zeros([4, 4, 1]), seeds(1)[0], AugmentConfig(hue=0.1))


def test_erasing_covers_one_rectangle_with_noise_at_its_probability():
    image = tf.fill([30, 30, 3], -1.0)
    results = np.stack([augment(image, seed, AugmentConfig(random_erasing=0.5)).numpy() for seed in seeds(40)])
    erased = (results != -1).all(axis=-1)
    assert 10 < erased.any(axis=(1, 2)).sum() < 30
    for mask, result in zip(erased, results, strict=True):
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert mask.sum() == len(rows) * len(columns)
            assert 0.01 < mask.mean() < 0.45
            assert result[mask].std() > 20


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"magnitude": 5}, "magnitude is 5.0, but policy is none"),
        ({"mixup": 0.2, "switch_probability": 0.3}, "switch_probability is 0.3, but mixup and cutmix are not both on"),
        ({"crop": 0.2, "random_resized_crop": {}}, "use one of the two"),
        ({"cutmix": 0.001}, "0, or 0.01 to 100"),
        ({"random_resized_crop": {"scale": (0.9, 0.1)}}, "must not exceed"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(values, found):
    with pytest.raises(ValueError, match=found):
        AugmentConfig.model_validate(values)


def test_mixing_needs_two_examples_a_step():
    with pytest.raises(ValueError, match="global_batch_size is 1; mixup and cutmix need at least 2"):
        DataConfig.model_validate({"source": "x", "global_batch_size": 1, "augment": {"mixup": 0.2}})
