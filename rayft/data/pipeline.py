"""From the numbers of batches to tensors: what a batch needs is fetched in Python, then decoded in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rayft.data.dataset import Dataset
from rayft.data.exif import orientation_of
from rayft.data.features import Features
from rayft.data.target import Targets

# What is read of an example, unless its features are.
INPUT = {"encoded": tf.TensorSpec([], tf.string), "orientation": tf.TensorSpec([], tf.int32)}
_PREFETCHED_BATCHES = 2
# Order is kept: a picture that takes longer holds up those behind it, and threads without another one would idle.
_IN_FLIGHT_PER_THREAD = 4

# Tensors of one example or of a batch, by name.
Tensors = dict[str, tf.Tensor]


def decoded_batches(
    steps: tf.data.Dataset,
    fetch: Callable[[np.ndarray], list[np.ndarray]],
    fields: dict[str, tf.TensorSpec],
    decode: Callable[[Tensors], Tensors],
    finish: Callable[[Tensors], Tensors] | None,
    *,
    batch_size: int,
    threads: int,
) -> tf.data.Dataset:
    """Fetch whole batches in Python, one at a time, then decode example by example in C++.

    Args:
        steps: int64 [], the number of each batch.
        fetch: Returns the fields of a batch, in their order, for its number.
        fields: Dtype and shape of each field of one example.
        decode: Makes what the batch holds of one example out of its fields.
        finish: Changes the batch at last.
        batch_size: Examples of each batch.
        threads: Pictures decoded at once.
    """
    # Nothing here is Python control flow, and AutoGraph would take seconds to find that out.
    plain = tf.autograph.experimental.do_not_convert
    fetched = steps.map(plain(lambda step: _fetch(step, fetch, fields, batch_size)))
    examples = fetched.prefetch(_PREFETCHED_BATCHES).unbatch()
    decoded = examples.map(plain(decode), num_parallel_calls=threads * _IN_FLIGHT_PER_THREAD)
    batches = decoded.batch(batch_size, drop_remainder=True)
    if finish is not None:
        batches = batches.map(plain(finish))
    return batches.prefetch(_PREFETCHED_BATCHES).with_options(_options(threads))


def feature_batches(
    steps: tf.data.Dataset,
    fetch: Callable[[np.ndarray], list[np.ndarray]],
    fields: dict[str, tf.TensorSpec],
    features: Features,
    finish: Callable[[Tensors], Tensors] | None,
    *,
    batch_size: int,
) -> tf.data.Dataset:
    """Fetch whole batches of stored features; nothing is left to do for a single example.

    Arguments as of ``decoded_batches``.
    """

    def fetch_step(step: tf.Tensor) -> Tensors:
        batch = _fetch(step, fetch, fields, batch_size)
        batch["features"] = features.decode(batch["features"])
        return batch if finish is None else finish(batch)

    return (
        steps.map(tf.autograph.experimental.do_not_convert(fetch_step))
        .prefetch(_PREFETCHED_BATCHES)
        .with_options(_options(1))
    )


def _fetch(
    step: tf.Tensor,
    fetch: Callable[[np.ndarray], list[np.ndarray]],
    fields: dict[str, tf.TensorSpec],
    batch_size: int,
) -> Tensors:
    tensors = tf.numpy_function(fetch, [step], [spec.dtype for spec in fields.values()], stateful=False)
    for spec, tensor in zip(fields.values(), tensors, strict=True):
        tensor.set_shape([batch_size, *spec.shape])
    return dict(zip(fields, tensors, strict=True))


def read(dataset: Dataset, features: Features | None, rows: np.ndarray, views: np.ndarray | None) -> list[np.ndarray]:
    """Return the fields of ``INPUT`` for some rows; where there are features, these alone."""
    if features is not None:
        return [features.take(rows, views)]
    encoded = dataset.reader.read(rows)
    return [np.array(encoded, dtype=object), np.array([orientation_of(one) for one in encoded], np.int32)]


def field_specs(plain: dict[str, tf.DType], targets: Targets, features: Features | None) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of one example of each field that is fetched: what ``read`` gives, then others.

    Args:
        plain: The others; numbers, except that ``label`` is as ``targets`` are.
        targets: Of the split.
        features: As of ``read``.
    """
    specs = {name: tf.TensorSpec([], dtype) for name, dtype in plain.items()}
    if targets.offsets is not None:
        specs["label"] = tf.TensorSpec([targets.classes], tf.float32)
    first = INPUT if features is None else {"features": tf.TensorSpec(features.stored.shape, features.stored.dtype)}
    return {**first, **specs}


def _options(threads: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # The order of examples is ours; TensorFlow must not divide it again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # What stands behind a tf.cond of a picture runs on TensorFlow's own threads; one that waits for them holds a
    # thread of these.
    options.threading.private_threadpool_size = 2 * threads
    # Parallelism is over pictures; a kernel that splits one picture would only fight for the same cores.
    options.threading.max_intra_op_parallelism = 1
    # Nothing is left to tune, and an iterator that ends may wait for the tuner to wake: its sleeps double, so that a
    # pass over the validation split took up to twice its time.
    options.autotune.enabled = False
    return options
