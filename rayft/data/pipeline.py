"""Batches of tensors for one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.augment import decode_training_picture, operation_key
from rayft.data.balance import make_order
from rayft.data.dataset import Dataset
from rayft.data.features import Features
from rayft.data.mix import draw_mix, mix_batch, partner_indices, with_partners
from rayft.data.order import replica_positions, steps_per_epoch
from rayft.data.picture import decode_picture
from rayft.data.target import Targets

# Per-example tensors between fetching and batching, with their dtypes; see train_batches.
_TRAIN_FIELDS = {
    "encoded": tf.string,
    "label": tf.int32,
    "weight": tf.float32,
    "position": tf.int32,
    "partner": tf.int32,
    "count": tf.float32,
    "step": tf.int64,
    "seed": tf.int64,
}
_EVALUATION_FIELDS = {"encoded": tf.string, "label": tf.int32, "weight": tf.float32, "row": tf.int64}
_ROW_FIELDS = {"encoded": tf.string, "batch": tf.int64, "seed": tf.int64}
_PREFETCHED_BATCHES = 2
_MAX_EPOCHS = 1 << 17  # Above train.epochs, so that (epoch, repetition) is one number.


def train_batches(
    dataset: Dataset,
    config: RunConfig,
    image_size: tuple[int, int],
    *,
    rank: int,
    num_workers: int,
    start_step: int = 0,
    threads: int = 2,
    features: Features | None = None,
) -> tf.data.Dataset:
    """Return this rank's part of every global batch from a step to the end of the run.

    One dataset spans all epochs, so prefetching goes on over their ends.

    Args:
        dataset: The examples; only the training split is used.
        config: The run.
        image_size: Height and width of the pictures.
        rank: This process, from 0.
        num_workers: Processes that share each global batch.
        start_step: First global step; skips the earlier ones at no cost.
        threads: Pictures decoded at once.
        features: What was computed of the pictures before; empty where they are read themselves.

    Returns:
        One dict a step, with b examples of this rank as in ``replica_positions``: ``image`` float32 [b, H, W, C] in
        0..255, or ``features`` [b, ...] in its place; ``label`` int32 [b], or float32 [b, classes]
        with MixUp, CutMix or several labels; ``weight`` float32 [b], 1 for a real one and 0 for padding;
        ``position`` int32 [b] in the global batch (padding repeats the last); ``count`` float32 [],
        the real examples of the whole global batch; ``step`` int64 [].

    Raises:
        tf.errors.InvalidArgumentError: While iterating, a picture cannot be decoded; see
            ``find_undecodable``.
    """
    global_batch_size = config.data.global_batch_size
    own = replica_positions(global_batch_size, num_workers, rank, config.train.accumulate_steps)
    fetched = with_partners(own, global_batch_size) if config.data.augment.mixes else own
    steps = tf.data.Dataset.range(
        start_step, config.train.epochs * steps_per_epoch(dataset.size("train"), global_batch_size)
    )
    return train_slices(
        dataset,
        config,
        image_size,
        steps,
        lambda step: (step, fetched),
        len(fetched),
        len(own),
        threads=threads,
        features=features,
    )


def train_slices(
    dataset: Dataset,
    config: RunConfig,
    image_size: tuple[int, int],
    requests: tf.data.Dataset,
    place: Callable[[int], tuple[int, np.ndarray]],
    size: int,
    keep: int,
    *,
    threads: int,
    features: Features | None = None,
) -> tf.data.Dataset:
    """Return a slice of a global batch for each request, with the fields of ``train_batches``.

    Args:
        dataset: The examples; only the training split is used.
        config: The run.
        image_size: Height and width of the pictures.
        requests: int64 [] each.
        place: Maps a request to a global step and to positions int64 [size] in its global batch; positions
            past the batch are padding.
        size: Positions fetched; with mixing they include the partners of those that are kept.
        keep: How many of them, from the first on, make up the slice.
        threads: Pictures decoded at once.
        features: As in ``train_batches``.
    """
    rows, targets = dataset.split("train")["row"].to_numpy(), dataset.targets("train")
    order = make_order(config, targets)
    global_batch_size, num_examples = config.data.global_batch_size, len(rows)
    epoch_steps = steps_per_epoch(num_examples, global_batch_size)
    augmentation, channels = config.data.augment, config.data.channels

    def fetch(request: np.ndarray) -> list[np.ndarray]:
        step, wanted = place(int(request))
        epoch, step_in_epoch = divmod(step, epoch_steps)
        drawn = order(epoch).batch(global_batch_size, step_in_epoch)
        batch = drawn.examples
        position = np.minimum(wanted, len(batch) - 1)
        # Where num_workers does not divide the batch, the last replicas have padding.
        weight = (wanted < len(batch)).astype(np.float32)
        chosen = batch[position]
        view = view_of_draw(config, epoch, None if drawn.repeats is None else drawn.repeats[position], size)
        seed = np.stack([np.full(size, config.seed), view, rows[chosen]], axis=1).astype(np.int64)
        return [
            _read(dataset, features, rows[chosen], view),
            targets.take(chosen),
            weight,
            position.astype(np.int32),
            partner_indices(wanted, len(batch)),
            np.full(size, len(batch), np.float32),
            np.full(size, step, np.int64),
            seed,
        ]

    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        seed = example.pop("seed")
        image = decode_training_picture(example.pop("encoded"), seed, image_size, channels, augmentation)
        if augmentation.mixes:
            example["mix"] = draw_mix(operation_key(seed, "mix"), image_size, augmentation)
        return {"image": image, **example}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        partner = batch.pop("partner")
        batch |= {"count": batch["count"][0], "step": batch["step"][0]}
        if augmentation.mixes:
            mix, classes = batch.pop("mix"), len(dataset.labels)
            images, mixed = mix_batch(batch["image"], batch["label"], mix, partner, keep, classes)
            batch |= {"image": images, "label": mixed}
        if keep < size:
            batch |= {name: batch[name][:keep] for name in ("image", "label", "weight", "position")}
        return batch

    fields = _fields(_TRAIN_FIELDS, targets)
    if features is not None:
        return _feature_batches(requests, fetch, fields, features, size, finish)
    return _batches(requests, fetch, fields, decode, size, threads, finish)


def view_of_epoch(config: RunConfig, epoch: np.ndarray) -> np.ndarray:
    """Return which draws of augmentation each example sees; with ``prefix_cache.views`` they come again."""
    return epoch % config.prefix_cache.views if config.prefix_cache.views else epoch


def view_of_draw(config: RunConfig, epoch: int, repeats: np.ndarray | None, count: int) -> np.ndarray:
    """Return ``view_of_epoch`` of ``count`` examples, where one that comes again in an epoch sees another view."""
    # Above train.epochs, (epoch, repetition) makes a number of its own; cached views are few and close by.
    stride = 1 if config.prefix_cache.views else _MAX_EPOCHS
    return view_of_epoch(config, epoch + stride * (np.zeros(count, np.int64) if repeats is None else repeats))


def evaluation_batches(
    dataset: Dataset,
    config: RunConfig,
    image_size: tuple[int, int],
    split: str,
    *,
    rank: int,
    num_workers: int,
    batch_size: int,
    threads: int = 2,
    features: Features | None = None,
) -> tf.data.Dataset:
    """Return this rank's contiguous part of a split, in as many batches as every other rank.

    Args:
        dataset: The examples.
        config: The run.
        image_size: Height and width of the pictures.
        split: train, validation or test; without augmentation.
        rank: This process, from 0.
        num_workers: Processes that share the split.
        batch_size: Examples of one rank's batch.
        threads: Pictures decoded at once.
        features: What was computed of the pictures before; empty where they are read themselves.

    Returns:
        Dicts of ``image`` float32 [batch_size, H, W, C] in 0..255, or ``features`` in its place, ``label``
        as in ``train_batches``, ``weight`` float32 (0 for padding) and ``row`` int64, the index within the
        split, all [batch_size].
    """
    rows, targets = dataset.split(split)["row"].to_numpy(), dataset.targets(split)
    share = -(-len(rows) // num_workers)
    first, end = min(rank * share, len(rows)), min((rank + 1) * share, len(rows))

    def fetch(step: np.ndarray) -> list[np.ndarray]:
        wanted = first + int(step) * batch_size + np.arange(batch_size)
        row = np.minimum(wanted, len(rows) - 1)
        weight = (wanted < end).astype(np.float32)
        return [_read(dataset, features, rows[row], None), targets.take(row), weight, row.astype(np.int64)]

    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = decode_picture(example.pop("encoded"), image_size, config.data.channels)
        image.set_shape([*image_size, config.data.channels])
        return {"image": image, **example}

    steps = tf.data.Dataset.range(-(-share // batch_size))
    fields = _fields(_EVALUATION_FIELDS, targets)
    if features is not None:
        return _feature_batches(steps, fetch, fields, features, batch_size, lambda batch: batch)
    return _batches(steps, fetch, fields, decode, batch_size, threads, lambda batch: batch)


def row_batches(
    dataset: Dataset,
    config: RunConfig,
    image_size: tuple[int, int],
    rows: np.ndarray,
    numbers: tf.data.Dataset,
    *,
    batch_size: int,
    view: int | None,
    threads: int,
) -> tf.data.Dataset:
    """Return pictures by row, for what is computed once an example.

    Args:
        dataset: The examples.
        config: The run.
        image_size: Height and width of the pictures.
        rows: int64 [n], row ids.
        numbers: int64 []; batch k holds the rows from k * batch_size on, the last one repeated in a short batch.
        batch_size: Rows of a batch.
        view: Augmented as in this epoch of training; None for the pictures as they are.
        threads: Pictures decoded at once.

    Returns:
        Dicts of ``image`` float32 [batch_size, H, W, C] in 0..255 and ``batch`` int64 [], its number.
    """

    def fetch(number: np.ndarray) -> list[np.ndarray]:
        chosen = rows[np.minimum(int(number) * batch_size + np.arange(batch_size), len(rows) - 1)]
        seed = np.stack([np.full(batch_size, config.seed), np.full(batch_size, view or 0), chosen], axis=1)
        encoded = np.array(dataset.reader.read(chosen), dtype=object)
        return [encoded, np.full(batch_size, int(number), np.int64), seed.astype(np.int64)]

    def decode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        encoded, seed, channels = example.pop("encoded"), example.pop("seed"), config.data.channels
        if view is None:
            image = tf.ensure_shape(decode_picture(encoded, image_size, channels), [*image_size, channels])
        else:
            image = decode_training_picture(encoded, seed, image_size, channels, config.data.augment)
        return {"image": image, **example}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {**batch, "batch": batch["batch"][0]}

    return _batches(numbers, fetch, _specs(_ROW_FIELDS), decode, batch_size, threads, finish)


def find_undecodable(dataset: Dataset, positions: np.ndarray, split: str = "train") -> list[str]:
    """Name the examples that TensorFlow cannot decode; to explain an error of the pipeline.

    Args:
        dataset: The examples.
        positions: Indices into the split, as ``batch_positions`` gives them.
        split: train, validation or test.
    """
    examples = dataset.split(split)
    names = []
    for position in np.unique(positions).tolist():
        row = examples["row"][position].as_py()
        (encoded,) = dataset.reader.read(np.array([row]))
        try:
            decode_picture(tf.constant(encoded), (8, 8), 3)
        except tf.errors.OpError:
            names.append(examples["name"][position].as_py())
    return names


def _read(dataset: Dataset, features: Features | None, rows: np.ndarray, views: np.ndarray | None) -> np.ndarray:
    if features is not None:
        return features.take(rows, views)
    return np.array(dataset.reader.read(rows), dtype=object)


def _feature_batches(
    steps: tf.data.Dataset,
    fetch: Callable[[np.ndarray], list[np.ndarray]],
    fields: dict[str, tf.TensorSpec],
    features: Features,
    batch_size: int,
    finish: Callable[[Any], Any],
) -> tf.data.Dataset:
    """Fetch whole batches; nothing is left to do for a single example."""

    def fetch_step(step: tf.Tensor) -> dict[str, tf.Tensor]:
        others = dict(list(fields.items())[1:])
        dtypes = [features.stored.dtype, *(spec.dtype for spec in others.values())]
        first, *tensors = tf.numpy_function(fetch, [step], dtypes, stateful=False)
        first.set_shape([batch_size, *features.stored.shape])
        for spec, tensor in zip(others.values(), tensors, strict=True):
            tensor.set_shape([batch_size, *spec.shape])
        batch = {"features": features.decode(first), **dict(zip(others, tensors, strict=True))}
        batch.pop("seed", None)
        return finish(batch)

    return (
        steps.map(tf.autograph.experimental.do_not_convert(fetch_step))
        .prefetch(_PREFETCHED_BATCHES)
        .with_options(_options(1))
    )


def _options(threads: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # The order of examples is ours; TensorFlow must not divide it again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.threading.private_threadpool_size = threads
    # Parallelism is over pictures; a kernel that splits one picture would only fight for the same cores.
    options.threading.max_intra_op_parallelism = 1
    return options


def _fields(plain: dict[str, tf.DType], targets: Targets) -> dict[str, tf.TensorSpec]:
    """Return dtype and shape of one example of each field, with targets as they are."""
    if targets.offsets is None:
        return _specs(plain)
    return {**_specs(plain), "label": tf.TensorSpec([targets.classes], tf.float32)}


def _specs(plain: dict[str, tf.DType]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec([3] if name == "seed" else [], dtype) for name, dtype in plain.items()}


def _batches(
    steps: tf.data.Dataset,
    fetch: Callable[[np.ndarray], list[np.ndarray]],
    fields: dict[str, tf.TensorSpec],
    decode: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
    batch_size: int,
    threads: int,
    finish: Callable[[Any], Any],
) -> tf.data.Dataset:
    """Fetch whole batches in Python, one at a time, then decode example by example in C++."""

    def fetch_step(step: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = tf.numpy_function(fetch, [step], [spec.dtype for spec in fields.values()], stateful=False)
        for spec, tensor in zip(fields.values(), tensors, strict=True):
            tensor.set_shape([batch_size, *spec.shape])
        return dict(zip(fields, tensors, strict=True))

    # Nothing here is Python control flow, and AutoGraph would take seconds to find that out.
    plain = tf.autograph.experimental.do_not_convert
    return (
        steps.map(plain(fetch_step))
        .prefetch(_PREFETCHED_BATCHES)
        .unbatch()
        .map(plain(decode), num_parallel_calls=threads)
        .batch(batch_size, drop_remainder=True)
        .map(plain(finish))
        .prefetch(_PREFETCHED_BATCHES)
        .with_options(_options(threads))
    )
