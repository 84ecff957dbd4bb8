import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from rayft.config import AugMixConfig
from rayft.data import operations
from rayft.data.boxes import DRAWS_OF_BOX, random_box, resized_crop_box
from rayft.data.policy import augmix, randaugment

PLUS, FULL = tf.constant(1.0), tf.constant(1.0)


def pixels(side: int = 24) -> np.ndarray:
    # A dark, narrow range with a gradient, so that histograms are uneven.
    noise = np.random.default_rng(0).integers(0, 60, (side, side, 3))
    return (noise + 2 * np.arange(side)[:, None, None] + [10, 40, 70]).astype(np.uint8)


def key(number: int = 0) -> tf.Tensor:
    return tf.constant([7, number], tf.int64)


def apply(operation, level=FULL, sign=PLUS, image=None) -> np.ndarray:
    return operation(tf.constant(pixels() if image is None else image, tf.float32), tf.constant(level), sign).numpy()


@pytest.mark.parametrize(
    ("operation", "of_pillow"),
    [
        (operations.autocontrast, ImageOps.autocontrast),
        (operations.equalize, ImageOps.equalize),
        (operations.posterize, lambda picture: ImageOps.posterize(picture, 4)),
        (operations.solarize, lambda picture: ImageOps.solarize(picture, 0)),
        (operations.colour, lambda picture: ImageEnhance.Color(picture).enhance(1.9)),
        (operations.contrast, lambda picture: ImageEnhance.Contrast(picture).enhance(1.9)),
        (operations.brightness, lambda picture: ImageEnhance.Brightness(picture).enhance(1.9)),
        (operations.sharpness, lambda picture: ImageEnhance.Sharpness(picture).enhance(1.9)),
        (operations.identity, lambda picture: picture),
    ],
)
def test_an_operation_of_pixels_equals_pillows_up_to_rounding(operation, of_pillow):
    want = np.asarray(of_pillow(Image.fromarray(pixels())), np.float32)
    # Pillow truncates where we keep fractions, before it multiplies by 1.9 in some.
    np.testing.assert_allclose(apply(operation), want, atol=2)


@pytest.mark.parametrize("operation", [operations.posterize, operations.solarize, operations.colour, operations.rotate])
def test_an_operation_of_level_zero_changes_nothing(operation):
    np.testing.assert_allclose(apply(operation, 0.0), pixels(), atol=1e-3)


def test_equalize_and_autocontrast_leave_a_constant_picture():
    constant = np.full((6, 6, 3), 90.0)
    for operation in (operations.equalize, operations.autocontrast):
        np.testing.assert_array_equal(apply(operation, image=constant), constant)


def test_a_translation_moves_by_its_part_of_the_side_and_uncovers_grey():
    image = pixels(20)
    moved = apply(operations.translate_x, 1.0, image=image)
    np.testing.assert_allclose(moved[:, :11], image[:, 9:], atol=1e-3)
    np.testing.assert_allclose(moved[:, 11:], 128)
    moved = apply(operations.translate_y, 1.0, tf.constant(-1.0), image=image)
    np.testing.assert_allclose(moved[9:], image[:11], atol=1e-3)


def test_a_shear_moves_each_row_by_its_number():
    ramp = np.tile(np.arange(20.0)[None, :, None], (20, 1, 3))
    sheared = apply(operations.shear_x, 1.0, image=ramp)
    np.testing.assert_allclose(sheared[10, :16, 0], np.arange(16) + 3, atol=1e-3)
    sheared = apply(operations.shear_y, 1.0, image=ramp.transpose(1, 0, 2))
    np.testing.assert_allclose(sheared[:16, 10, 0], np.arange(16) + 3, atol=1e-3)


def test_a_rotation_follows_its_angle_about_the_centre():
    y, x = np.mgrid[:21, :21] - 10.0
    ramp = np.repeat((x + 100)[..., None], 3, axis=2)
    turned = apply(operations.rotate, 1.0, image=ramp)
    want = math.cos(math.pi / 6) * x - math.sin(math.pi / 6) * y + 100
    np.testing.assert_allclose(turned[6:15, 6:15, 0], want[6:15, 6:15], atol=0.05)


def test_randaugment_is_the_drawn_operations_one_after_the_other():
    image = tf.constant(pixels(), tf.float32)
    seen = set()
    drawn = tf.function(lambda key: randaugment(image, key, 2, 9.0))
    for number in range(6):
        want = image
        for index in range(2):
            draws = tf.random.stateless_uniform([3], tf.random.fold_in(key(number), index, alg="philox"), alg="philox")
            operation = operations.RANDAUGMENT[int(draws[0] * 14)]
            seen.add(operation.__name__)
            want = operation(image=want, level=tf.constant(0.9), sign=tf.constant(-1.0 if draws[2] < 0.5 else 1.0))
        np.testing.assert_allclose(drawn(key(number)), want, atol=1e-3)
    assert len(seen) > 4
    assert len(set(operations.RANDAUGMENT)) == 14


def test_randaugment_leaves_colour_out_where_there_is_none():
    grey = tf.constant(pixels()[..., :1], tf.float32)
    results = [randaugment(grey, key(number), 1, 9.0) for number in range(3)]
    assert {tuple(result.shape) for result in results} == {(24, 24, 1)}


def test_augmix_averages_its_chains_and_the_picture():
    image = tf.constant(pixels(), tf.float32)
    config = AugMixConfig(width=2, depth=1, severity=5)
    mixed = [augmix(image, key(number), config).numpy() for number in range(4)]
    assert len({picture.tobytes() for picture in mixed}) == 4
    assert all(picture.min() >= -1e-3 and picture.max() <= 255.001 for picture in mixed)
    # One chain alone: picture + m (chain - picture), so every pixel lies between the two.
    lone = augmix(image, key(3), AugMixConfig(width=1, depth=1, severity=5)).numpy() - image
    chain_key = tf.random.fold_in(key(3), 2, alg="philox")
    draws = tf.random.stateless_uniform([3], tf.random.fold_in(chain_key, 0, alg="philox"), alg="philox")
    sign = tf.constant(-1.0 if draws[2] < 0.5 else 1.0)
    change = operations.AUGMIX[int(draws[0] * 9)](image, draws[1] * 0.5, sign) - image
    part = float(tf.reduce_sum(lone * change) / tf.reduce_sum(change * change))
    assert 0 < part < 1
    np.testing.assert_allclose(lone, part * change, atol=1e-2)


def draws_of_box(number: int) -> tf.Tensor:
    return tf.random.stateless_uniform([DRAWS_OF_BOX], key(number), alg="philox")


def test_the_first_try_that_fits_is_the_box():
    draws = np.full((4, 10), 0.5, np.float32)
    # Areas of the first two tries are 100 and 16 times 64; the aspect is 1.
    draws[0, :2] = 1.0, 0.16
    draws[2:, 1] = 0.25, 0.75
    box, fits = random_box(tf.constant(draws.ravel()), tf.constant([64, 100]), (0.0, 1.0), (0.5, 2.0))
    # A square of side 80 is too tall; one of side 32 lies at 0.25 of 33 rows and at 0.75 of 69 columns.
    assert box.numpy().tolist() == [8, 51, 32, 32]
    assert fits


def test_boxes_lie_inside_and_have_the_area_and_aspect_that_were_asked_for():
    areas, aspects = [], []
    draw = tf.function(lambda draws: random_box(draws, tf.constant([300, 400]), (0.2, 0.5), (0.5, 2.0)))
    for number in range(60):
        box, fits = draw(draws_of_box(number))
        assert fits
        top, left, height, width = box.numpy()
        assert top >= 0
        assert left >= 0
        assert top + height <= 300
        assert left + width <= 400
        areas.append(height * width / 120_000)
        aspects.append(width / height)
    assert 0.199 < min(areas) < 0.26
    assert 0.44 < max(areas) < 0.501
    assert 0.49 < min(aspects) < 0.65
    assert 1.5 < max(aspects) < 2.02


def test_a_picture_too_long_for_the_aspects_gives_its_middle():
    box = resized_crop_box(draws_of_box(0), tf.constant([10, 1000]), (1.0, 1.0), (0.5, 2.0))
    assert box.numpy().tolist() == [0, 490, 10, 20]
    box = resized_crop_box(draws_of_box(0), tf.constant([1000, 10]), (1.0, 1.0), (0.5, 2.0))
    assert box.numpy().tolist() == [490, 0, 20, 10]
