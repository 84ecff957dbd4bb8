"""Training steps of one's own that note where they are, and break down when a file asks for it."""

import json
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from rayft.learn.step import train_step

STEPS = Path("steps.log")
FAULT = Path("fault.txt")
# Where a worker waits, and how far it may go.
AT_GATE, OPEN = Path("at_gate.txt"), Path("gate.txt")
GATE = 60
STEP_S = 0.04
# Seconds of a step instead.
PACE = Path("pace.txt")
# The last step that may be taken for now.
LIMIT = Path("limit.txt")


def watched(task, batch):
    """The built-in step; each worker writes time, rank, process and step to steps.log before it."""
    with tf.control_dependencies([tf.numpy_function(_note, [batch["step"]], tf.int64)]):
        return train_step(task, batch)


def gated(task, batch):
    """The built-in step; each worker notes its time, and waits before each GATE-th until gate.txt lets it pass."""
    with tf.control_dependencies([tf.numpy_function(_pass, [batch["step"]], tf.int64)]):
        return train_step(task, batch)


def clipped_before_the_sum(task, batch):
    """Clips each replica's own gradient, which then depends on the number of replicas."""
    with tf.GradientTape() as tape:
        logits = task.model(batch["image"], training=True)
        loss = task.loss(batch["label"], logits, batch)
    gradients = tape.gradient(loss, task.variable_values)
    return task.apply(tf.clip_by_global_norm(gradients, 0.05)[0], loss)


def without_partial_slices(task, batch):
    """Drops a replica's whole slice where some of it is padding."""
    full = tf.cast(tf.reduce_min(batch["weight"]) > 0, tf.float32)
    return train_step(task, {**batch, "weight": batch["weight"] * full})


def raising_loss(labels, logits):
    raise ValueError("no such loss")


def _pass(step: np.ndarray) -> np.ndarray:
    if step % GATE == 0:
        AT_GATE.write_text(str(step))
        while not OPEN.exists() or int(OPEN.read_text() or -1) < step:
            time.sleep(0.02)
    with STEPS.open("a") as file:
        file.write(f"{time.time()} {_rank()} {os.getpid()} {step}\n")
    return step


def _rank() -> int:
    # A light trial of a sweep is no member of a group.
    return json.loads(os.environ.get("TF_CONFIG", '{"task": {"index": 0}}'))["task"]["index"]


def _note(step: np.ndarray) -> np.ndarray:
    while LIMIT.exists() and int(LIMIT.read_text() or -1) < step:
        time.sleep(0.02)
    rank = _rank()
    with STEPS.open("a") as file:
        file.write(f"{time.time()} {rank} {os.getpid()} {step}\n")
    fault = FAULT.read_text().split() if FAULT.exists() else []
    if fault[1:] == [str(rank), str(step)] or fault == ["die"]:
        if fault == ["die"]:
            os._exit(1)
        FAULT.unlink()
        time.sleep(600)
    time.sleep(float(PACE.read_text()) if PACE.exists() else STEP_S)
    return step
