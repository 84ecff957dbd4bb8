"""From the numbers of batches to tensors: what a batch needs is fetched in Python, then decoded in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rayft.data.dataset import Dataset
from rayft.data.features import Features
from rayft.data.target import Targets

_PREFETCHED_BATCHES = 2

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

    def fetch_step(step: tf.Tensor) -> Tensors:
        tensors = tf.numpy_function(fetch, [step], [spec.dtype for spec in fields.values()], stateful=False)
        for spec, tensor in zip(fields.values(), tensors, strict=True):
            tensor.set_shape([batch_size, *spec.shape])
        return dict(zip(fields, tensors, strict=True))

    # Nothing here is Python control flow, and AutoGraph would take seconds to find that out.
    plain = tf.autograph.experimental.do_not_convert
    examples = steps.map(plain(fetch_step)).prefetch(_PREFETCHED_BATCHES).unbatch()
    batches = examples.map(plain(decode), num_parallel_calls=threads).batch(batch_size, drop_remainder=True)
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
    """Fetch whole batches of stored features, the first field; nothing is left to do for a single example.

    Arguments as of ``decoded_batches``.
    """

    def fetch_step(step: tf.Tensor) -> Tensors:
        others = dict(list(fields.items())[1:])
        dtypes = [features.stored.dtype, *(spec.dtype for spec in others.values())]
        first, *tensors = tf.numpy_function(fetch, [step], dtypes, stateful=False)
        first.set_shape([batch_size, *features.stored.shape])
        for spec, tensor in zip(others.values(), tensors, strict=True):
            tensor.set_shape([batch_size, *spec.shape])
        batch = {"features": features.decode(first), **dict(zip(others, tensors, strict=True))}
        return batch if finish is None else finish(batch)

    return (
        steps.map(tf.autograph.experimental.do_not_convert(fetch_step))
        .prefetch(_PREFETCHED_BATCHES)
        .with_options(_options(1))
    )


def read(dataset: Dataset, features: Features | None, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray:
    """Return the encoded pictures of some rows, object [n]; where there are features, these in their place."""
    if features is not None:
        return features.take(rows, views)
    return np.array(dataset.reader.read(rows), dtype=object)


def field_specs(plain: dict[str, tf.DType], targets: Targets) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of one example of each field, with targets as they are."""
    specs = {name: tf.TensorSpec([], dtype) for name, dtype in plain.items()}
    if targets.offsets is not None:
        specs["label"] = tf.TensorSpec([targets.classes], tf.float32)
    return specs


def _options(threads: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # The order of examples is ours; TensorFlow must not divide it again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.threading.private_threadpool_size = threads
    # Parallelism is over pictures; a kernel that splits one picture would only fight for the same cores.
    options.threading.max_intra_op_parallelism = 1
    return options
