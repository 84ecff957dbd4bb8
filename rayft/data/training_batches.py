"""The batches of training: one rank's part of every global batch, augmented."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.augment import decode_training_picture
from rayft.data.balance import make_order
from rayft.data.dataset import Dataset
from rayft.data.draws import draw_fields, draw_specs, operation_key
from rayft.data.features import Features
from rayft.data.mix import draw_mix, mix_batch, partner_indices, with_partners
from rayft.data.order import replica_positions, steps_per_epoch
from rayft.data.pipeline import Tensors, decoded_batches, feature_batches, field_specs, read

# Per-example tensors between fetching and batching, with their dtypes; see train_batches.
_FIELDS = {
    "label": tf.int32,
    "weight": tf.float32,
    "position": tf.int32,
    "partner": tf.int32,
    "count": tf.float32,
    "step": tf.int64,
}
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
        fields = [
            *read(dataset, features, rows[chosen], view),
            targets.take(chosen),
            weight,
            position.astype(np.int32),
            partner_indices(wanted, len(batch)),
            np.full(size, len(batch), np.float32),
            np.full(size, step, np.int64),
        ]
        if features is None:
            fields += draw_fields(config.seed, view, rows[chosen], augmentation)
        return fields

    def decode(example: Tensors) -> Tensors:
        seed = example["seed"]
        image = decode_training_picture(example, image_size, channels, augmentation)
        if augmentation.mixes:
            example["mix"] = draw_mix(operation_key(seed, "mix"), image_size, augmentation)
        return {"image": image, **example}

    def finish(batch: Tensors) -> Tensors:
        partner = batch.pop("partner")
        batch |= {"count": batch["count"][0], "step": batch["step"][0]}
        if augmentation.mixes:
            mix, classes = batch.pop("mix"), len(dataset.labels)
            images, mixed = mix_batch(batch["image"], batch["label"], mix, partner, keep, classes)
            batch |= {"image": images, "label": mixed}
        if keep < size:
            batch |= {name: batch[name][:keep] for name in ("image", "label", "weight", "position")}
        return batch

    specs = field_specs(_FIELDS, targets, features)
    if features is not None:
        return feature_batches(requests, fetch, specs, features, finish, batch_size=size)
    specs |= draw_specs(augmentation)
    return decoded_batches(requests, fetch, specs, decode, finish, batch_size=size, threads=threads)


def view_of_epoch(config: RunConfig, epoch: np.ndarray) -> np.ndarray:
    """Return which draws of augmentation each example sees; with ``prefix_cache.views`` they come again."""
    return epoch % config.prefix_cache.views if config.prefix_cache.views else epoch


def view_of_draw(config: RunConfig, epoch: int, repeats: np.ndarray | None, count: int) -> np.ndarray:
    """Return ``view_of_epoch`` of ``count`` examples, where one that comes again in an epoch sees another view."""
    # Above train.epochs, (epoch, repetition) makes a number of its own; cached views are few and close by.
    stride = 1 if config.prefix_cache.views else _MAX_EPOCHS
    return view_of_epoch(config, epoch + stride * (np.zeros(count, np.int64) if repeats is None else repeats))
