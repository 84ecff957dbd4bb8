"""Short runs whose numbers are compared between worker counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from rayft.config import AugmentConfig, RunConfig
from rayft.data.dataset import Dataset
from rayft.data.order import steps_per_epoch
from rayft.data.pipeline import evaluation_batches, train_batches
from rayft.learn.checkpoint import digest, dump_state, load_state
from rayft.learn.evaluate import make_evaluate
from rayft.learn.loop import Plan, train_epochs
from rayft.learn.optimizer import Updater
from rayft.learn.session import Place
from rayft.learn.step import Task, state_variables
from rayft.model.network import build_network, smallest_side

EPOCHS = 2
BATCH = 8
EXAMPLES = 19  # Two full batches and a part, which leaves some of three workers nothing but padding.
SIDE = 64
AUGMENT = AugmentConfig(
    horizontal_flip=True, crop=0.2, rotate=15, brightness=0.1, contrast=0.2, saturation=0.2, hue=0.05
)


@dataclass(frozen=True)
class Trace:
    """What one short run computed.

    Attributes:
        losses: Global mean loss of each step.
        gradient: Gradient of the first step, flat, summed over replicas; float64.
        metrics: Validation metrics after the run.
        same_on_all_ranks: Whether all ranks ended with the same weights, bit for bit.
        resumed_equal: Whether a run cut in the middle and resumed ended with the same weights, bit for bit.
        examples_per_epoch: Real examples that the batches of one epoch held, over all ranks.
        head_only: Whether the whole backbone was frozen.
    """

    losses: list[float]
    gradient: np.ndarray
    metrics: dict[str, float]
    same_on_all_ranks: bool
    resumed_equal: bool
    examples_per_epoch: float
    head_only: bool


def run_cases(
    config: RunConfig,
    dataset: Dataset,
    place: Place,
    strategy: tf.distribute.Strategy,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Run every case of a proof on this replica's share.

    Returns:
        cases (name to Trace), examples (in the training split) and conditions (in words).
    """
    side = _smallest_side(config)
    dataset = subset(dataset)
    depth: Any = config.freeze.depth if config.freeze.depth != "all" else 0.5
    cases = {
        "float64, BatchNorm frozen": ("float64", depth, "frozen"),
        "float64, BatchNorm trainable": ("float64", depth, "trainable"),
        "float32, head only": ("float32", "all", "frozen"),
        "float32, unfrozen": ("float32", depth, "frozen"),
    }
    traces = {}
    for name, (precision, frozen, batch_norm) in cases.items():
        tell(name)
        tree = shrink(config, side).model_dump()
        tree["train"]["precision"] = precision
        tree["freeze"] = {"depth": frozen, "batch_norm": batch_norm}
        traces[name] = run_case(RunConfig.model_validate(tree), dataset, place, strategy)
    conditions = (
        f"{dataset.size('train')} examples of side {side} pixels in batches of {BATCH}, {EPOCHS} epochs, "
        f"augmentation and clipping on; unfrozen: freeze.depth {depth}"
    )
    return {"cases": traces, "examples": dataset.size("train"), "conditions": conditions}


def shrink(config: RunConfig, side: int | tuple[int, int] | None) -> RunConfig:
    """Return ``config`` with few small pictures, and with augmentation and clipping switched on."""
    tree = config.model_dump()
    tree["data"] |= {"global_batch_size": BATCH, "image_size": side}
    if config.data.augment == AugmentConfig():
        tree["data"]["augment"] = AUGMENT.model_dump()
    tree["optim"]["clip_norm"] = config.optim.clip_norm or 0.1
    tree["train"] |= {"epochs": EPOCHS, "checkpoint_every_steps": None}
    return RunConfig.model_validate(tree)


def subset(dataset: Dataset) -> Dataset:
    """Return the dataset with the first few training and validation examples alone."""
    parts = [dataset.split("train").slice(0, EXAMPLES), dataset.split("validation").slice(0, EXAMPLES)]
    return replace(dataset, examples=pa.concat_tables(parts))


def run_case(config: RunConfig, dataset: Dataset, place: Place, strategy: tf.distribute.Strategy) -> Trace:
    """Train ``config`` on this replica's share and return what was computed."""
    per_epoch = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
    plan = Plan(per_epoch, config.train.epochs)
    network = build_network(config, len(dataset.labels), strategy)
    task = Task(config, network, total_steps=plan.total_steps, strategy=strategy)
    recorder = _GradientRecorder(task)
    begin = dump_state(task)
    evaluate = make_evaluate(task, len(dataset.labels), place.alive)

    def batches(start_step: int) -> tf.data.Dataset:
        return train_batches(
            dataset,
            config,
            network.image_size,
            rank=place.rank,
            num_workers=place.num_workers,
            start_step=start_step,
        )

    def train(first: int) -> list[float]:
        losses: list[float] = []
        for progress in train_epochs(task, batches(first), dict, replace(plan, start_step=first)):
            losses.extend(progress.losses.tolist())
            place.alive()
        return losses

    losses = train(0)
    end = dump_state(task)
    metrics = evaluate(
        evaluation_batches(
            dataset,
            config,
            network.image_size,
            "validation",
            rank=place.rank,
            num_workers=place.num_workers,
            batch_size=BATCH,
        )
    )
    same = place.broadcast(digest(state_variables(task))) == digest(state_variables(task))
    load_state(task, begin)
    cut = plan.steps_per_epoch + 1
    middle = _state_after(task, batches(0), cut)
    load_state(task, begin)
    load_state(task, middle)
    train(cut)
    return Trace(
        losses=losses,
        gradient=recorder.first,
        metrics=metrics,
        same_on_all_ranks=_all_ranks(same, task),
        resumed_equal=_all_ranks(dump_state(task) == end, task),
        examples_per_epoch=_examples(batches(0), plan, task),
        head_only=network.frozen_depth == len(network.blocks),
    )


def _smallest_side(config: RunConfig) -> int | tuple[int, int] | None:
    """The smallest pictures that the backbone takes, from SIDE pixels on."""
    name = config.model.backbone
    if name == "none" or name.endswith(".keras"):
        return config.data.image_size
    return max(SIDE, smallest_side(name))


class _GradientRecorder:
    """Keeps the gradient that the first update of a task received."""

    def __init__(self, task: Task) -> None:
        self._updater: Updater = task.updater
        size = sum(int(np.prod(variable.shape)) for variable in task.variables)
        self._kept = tf.Variable(tf.zeros([size], task.variables[0].dtype))
        task.updater.apply = self._apply  # type: ignore[method-assign]

    def _apply(self, gradient: tf.Tensor, step: tf.Tensor) -> None:
        self._kept.assign(tf.where(step == 0, gradient, self._kept))
        Updater.apply(self._updater, gradient, step)

    @property
    def first(self) -> np.ndarray:
        return self._kept.numpy().astype("float64")


def _state_after(task: Task, batches: tf.data.Dataset, cut: int) -> bytes:
    """Train until step ``cut`` and return the state there."""
    shorter = Plan(cut, 1)
    for _ in train_epochs(task, batches, dict, shorter):
        pass
    return dump_state(task)


def _all_ranks(value: bool, task: Task) -> bool:
    failed = tf.constant([0.0 if value else 1.0])
    return float(_over_replicas(task, failed)[0]) == 0


def _examples(batches: tf.data.Dataset, plan: Plan, task: Task) -> float:
    own = sum(float(tf.reduce_sum(batch["weight"])) for batch in batches.take(plan.steps_per_epoch))
    return float(_over_replicas(task, tf.constant([own]))[0])


def _over_replicas(task: Task, values: tf.Tensor) -> np.ndarray:
    @tf.function
    def total(values: tf.Tensor) -> tf.Tensor:
        return task.strategy.run(task.all_reduce, args=(values,))

    return total(values).numpy()
