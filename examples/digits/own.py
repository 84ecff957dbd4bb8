"""A loss and a training step of one's own."""

import tensorflow as tf


def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of int32 labels [b] and logits [b, classes], unreduced: float [b]."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def step(task, batch: dict[str, tf.Tensor]) -> tf.Tensor:
    """Take one step on this worker's part of the batch; returns the loss of the whole batch.

    ``task.loss`` averages over the whole batch, and ``task.minimize`` sums gradients over the workers.
    """
    with tf.GradientTape() as tape:
        logits = task.model(batch["image"], training=True)
        value = task.loss(batch["label"], logits, batch)
    return task.minimize(tape, value)
