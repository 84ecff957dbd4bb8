import numpy as np
import pytest
import tensorflow as tf

from rayft.config import AugmentConfig
from rayft.data.augment import augment, change
from rayft.data.draws import draw_batch, draw_counts, draw_example, split_draws

EVERYTHING = AugmentConfig(
    horizontal_flip=True,
    vertical_flip=True,
    random_resized_crop={},
    rotate=20,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.1,
    random_erasing=0.5,
)
# Words above and below 32 bits, and with the highest bit set.
SEEDS = np.array([[0, 0, 0], [3, 1, 7], [3, 1, 8], [2**40 + 5, 2**33, 2**62 + 1], [2**31, 2**32 - 1, 2**63 - 1]])


@pytest.mark.parametrize("config", [EVERYTHING, AugmentConfig(crop=0.3), AugmentConfig(hue=0.1), AugmentConfig()])
def test_a_batch_is_drawn_bit_for_bit_as_tensorflow_draws_each_example(config):
    drawn = draw_batch(SEEDS, config)
    assert drawn.dtype == np.float32
    assert drawn.shape == (5, sum(draw_counts(config).values()))
    for row, seed in zip(drawn, SEEDS, strict=True):
        np.testing.assert_array_equal(row, draw_example(tf.constant(seed), config))


def test_numbers_carry_the_name_of_their_operation():
    config = AugmentConfig(horizontal_flip=True, crop=0.3, hue=0.1)
    draws = split_draws(tf.range(6.0), config)
    assert {name: value.numpy().tolist() for name, value in draws.items()} == {
        "horizontal_flip": 0,
        "crop": [1, 2, 3, 4],
        "hue": 5,
    }


def test_every_operation_that_takes_numbers_has_them():
    # An operation without its numbers is a KeyError; without an effect, the picture would stay.
    image = tf.constant(np.random.default_rng(0).uniform(20, 230, (9, 9, 3)), tf.float32)
    for name, value in EVERYTHING.model_dump(exclude_defaults=True).items():
        config = AugmentConfig(**{name: value})
        pictures = [augment(image, tf.constant([1, 2, example]), config).numpy() for example in range(8)]
        assert any(not np.array_equal(picture, image) for picture in pictures) or name == "random_resized_crop"
    seed = SEEDS[1]
    config = EVERYTHING.model_copy(update={"random_resized_crop": None})
    drawn = split_draws(tf.constant(draw_batch(seed[None], config)[0]), config)
    np.testing.assert_array_equal(
        change(image, tf.constant(seed), drawn, config), augment(image, tf.constant(seed), config)
    )
