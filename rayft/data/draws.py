"""Random numbers of the augmentations, for whole batches of examples.

The numbers are those of ``tf.random.stateless_uniform`` and ``tf.random.fold_in`` with Philox, bit for bit. TensorFlow
takes one key a call, and a dozen small operations for each number of each example add up to a tenth of what
decoding takes; here a batch is drawn at once.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from rayft.config import AugmentConfig
from rayft.data.boxes import DRAWS_OF_BOX

# A constant per operation, so that switching one on does not change the draws of another.
_OPERATIONS = {
    "horizontal_flip": 1,
    "vertical_flip": 2,
    "crop": 3,
    "rotate": 4,
    "brightness": 5,
    "contrast": 6,
    "saturation": 7,
    "hue": 8,
    "policy": 9,
    "augmix": 10,
    "layers": 11,
    "random_erasing": 12,
    "erased_box": 13,
    "noise": 14,
    "random_resized_crop": 15,
    "mix": 16,
}
# Numbers that an operation needs for each example; the others draw from a key as they go.
_COUNTS = {
    "horizontal_flip": 1,
    "vertical_flip": 1,
    "crop": 4,
    "rotate": 1,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 1,
    "random_erasing": 1,
    "random_resized_crop": DRAWS_OF_BOX,
}
# Philox4x32-10: Salmon et al. 2011, table 2. The key under which TensorFlow scrambles seeds is its own.
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_ROUNDS = 10
_SCRAMBLE = np.uint64(0x3EC8F720), np.uint64(0x02461E29)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def operation_key(seed: tf.Tensor, operation: str) -> tf.Tensor:
    """Return the seed [2] of one operation on one example.

    Args:
        seed: int32 or int64 [2] or [3]: run seed, epoch, example.
        operation: Its name.
    """
    key = seed[:2]
    if seed.shape[0] == 3:
        key = tf.random.fold_in(key, seed[2], alg="philox")
    return tf.random.fold_in(key, _OPERATIONS[operation], alg="philox")


def draw_counts(config: AugmentConfig) -> dict[str, int]:
    """Return how many numbers each operation that is switched on takes, in the order in which they lie."""
    values = config.model_dump(include=set(_COUNTS))
    return {name: count for name, count in _COUNTS.items() if values[name] not in (None, False, 0)}


def draw_specs(config: AugmentConfig) -> dict[str, tf.TensorSpec]:
    """Return the fields of one example that ``draw_fields`` gives: ``seed``, and ``drawn`` if there is any."""
    count = sum(draw_counts(config).values())
    # TensorFlow's unbatch ends the process on rows without numbers.
    drawn = {"drawn": tf.TensorSpec([count], tf.float32)} if count else {}
    return {"seed": tf.TensorSpec([3], tf.int64), **drawn}


def draw_fields(run_seed: int, views: np.ndarray, rows: np.ndarray, config: AugmentConfig) -> list[np.ndarray]:
    """Return the fields of ``draw_specs`` for a batch of b examples.

    Args:
        run_seed: ``seed`` of the run.
        views: int64 [b], epochs.
        rows: int64 [b], ids of the examples.
        config: Says which operations are on.
    """
    seeds = np.stack([np.full(len(rows), run_seed), views, rows], axis=1).astype(np.int64)
    return [seeds, draw_batch(seeds, config)] if draw_counts(config) else [seeds]


def draw_example(seed: tf.Tensor, config: AugmentConfig) -> tf.Tensor:
    """Draw what an example needs, float32 [n] in [0, 1); ``seed`` as of ``operation_key``."""
    drawn = [
        tf.random.stateless_uniform([count], operation_key(seed, name), alg="philox")
        for name, count in draw_counts(config).items()
    ]
    return tf.concat([*drawn, tf.zeros([0])], 0)


def split_draws(drawn: tf.Tensor | None, config: AugmentConfig) -> dict[str, tf.Tensor]:
    """Name the numbers of an example, float32 [n] or None for none: one alone is [], several are [count]."""
    counts = draw_counts(config)
    parts = tf.split(drawn, list(counts.values())) if counts else []
    return {
        name: tf.reshape(part, []) if count == 1 else part
        for (name, count), part in zip(counts.items(), parts, strict=True)
    }


def draw_batch(seeds: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """Draw what the examples of a batch need.

    Args:
        seeds: int64 [b, 3]: run seed, epoch, example.
        config: Says which operations are on.

    Returns:
        float32 [b, n] in [0, 1); each row is what ``draw_example`` gives for its seed.
    """
    counts = draw_counts(config)
    if not counts:
        return np.zeros((len(seeds), 0), np.float32)
    run, epoch, example = seeds.T.astype(np.uint64)
    low, high = _first_words(run, epoch)[:2]
    low = _first_words(low | (high << _HALF), example)[0]
    # The number of an operation is int32, hence what it is folded into as well; TensorFlow extends its sign.
    key = low.astype(np.uint32).astype(np.int32).astype(np.int64).astype(np.uint64)
    groups = [(_OPERATIONS[name], group) for name, count in counts.items() for group in range(-(-count // 4))]
    numbers, blocks = np.array(groups, np.uint64).T
    words = np.stack(_first_words(key[:, None], numbers[None], blocks[None]), axis=-1).astype(np.uint32)
    kept = np.concatenate([np.arange(4 * -(-count // 4)) < count for count in counts.values()])
    # The upper mantissa bits of a number in [1, 2).
    ones = (words.reshape(len(seeds), -1)[:, kept] & np.uint32(0x7FFFFF)) | np.uint32(0x3F800000)
    return ones.view(np.float32) - np.float32(1.0)


def _first_words(first: np.ndarray, second: np.ndarray, block: np.ndarray | int = 0) -> Words:
    """Return a block of the stream that TensorFlow draws from a seed of two numbers, four 32-bit words."""
    first, second = np.broadcast_arrays(first, second)
    seed = first & _LOW, first >> _HALF, second & _LOW, second >> _HALF
    key0, key1, counter2, counter3 = _philox(seed, _SCRAMBLE)
    start = np.broadcast_to(np.asarray(block, np.uint64), first.shape)
    return _philox((start, np.zeros_like(first), counter2, counter3), (key0, key1))


def _philox(counter: Words, key: tuple[np.ndarray | np.uint64, np.ndarray | np.uint64]) -> Words:
    """Return 128 random bits of each counter, as four words in uint64 arrays."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW, (first >> _HALF) ^ c3 ^ k1, first & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3
