"""The tf.data source that rayft and Keras both read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from setting import Setting

from rayft.data.dataset import Dataset
from rayft.data.picture import decode_picture


def memory_batches(setting: Setting) -> tf.data.Dataset:
    """Return one epoch of (image float32 [b, H, W, 3], label int32 [b]): this worker's slice of each batch."""
    folder = Path(setting.data)
    workers = max(1, len(setting.workers))
    images = _slices(np.load(folder / "images.npy", mmap_mode="r"), setting, workers)
    labels = _slices(np.load(folder / "labels.npy"), setting, workers)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).map(
        lambda image, label: (tf.cast(image, tf.float32), label)
    )
    return _quiet(batches)


def encoded_batches(dataset: Dataset, setting: Setting, image_size: tuple[int, int]) -> tf.data.Dataset:
    """Return the usual tf.data pipeline over the training pictures, as a Keras user writes it."""
    train = dataset.split("train")
    encoded = dataset.reader.read(train["row"].to_numpy())
    labels = train["label"].to_numpy()

    def decode(content: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = decode_picture(content, image_size, 3)
        return tf.ensure_shape(image, [*image_size, 3]), label

    examples = tf.data.Dataset.from_tensor_slices((encoded, labels)).shuffle(len(encoded))
    decoded = examples.map(decode, num_parallel_calls=len(setting.cores))
    return decoded.batch(setting.global_batch_size).prefetch(tf.data.AUTOTUNE)


def with_rayft_fields(batches: tf.data.Dataset, setting: Setting) -> tf.data.Dataset:
    """Repeat one epoch for ever, in the form that ``rayft.learn.step`` reads."""
    size = setting.global_batch_size // max(1, len(setting.workers))

    def add(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            "image": batch[0],
            "label": batch[1],
            "weight": tf.ones([size]),
            "count": tf.constant(float(setting.global_batch_size)),
            "position": setting.rank * size + tf.range(size),
            "step": step,
        }

    return _quiet(batches.repeat().enumerate().map(add))


def _slices(rows: np.ndarray, setting: Setting, workers: int) -> np.ndarray:
    """Return [steps, b, ...]: this worker's part of every global batch; rows that fill no batch are left out."""
    size = setting.global_batch_size // workers
    steps = len(rows) // setting.global_batch_size
    whole = rows[: steps * setting.global_batch_size].reshape(steps, workers, size, *rows.shape[1:])
    return np.ascontiguousarray(whole[:, setting.rank])


def _quiet(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # The slices are made above; TensorFlow must not divide them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(2).with_options(options)
