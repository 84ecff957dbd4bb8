"""Short runs whose numbers are compared between worker counts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from rayft.config import AugmentConfig, RunConfig
from rayft.data.dataset import Dataset
from rayft.data.objective import make_objective
from rayft.data.order import steps_per_epoch
from rayft.data.pipeline import evaluation_batches, train_batches
from rayft.learn.checkpoint import digest, dump_state, load_state
from rayft.learn.evaluate import make_evaluate
from rayft.learn.loop import Plan, train_epochs
from rayft.learn.optimizer import Updater
from rayft.learn.session import Place
from rayft.learn.step import Task, state_variables
from rayft.model.network import build_network, default_image_size, smallest_side

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
    shrunk = shrink(config, side)
    image_size = (side, side) if isinstance(side, int) else side or default_image_size(config.model)
    pipelines = Pipelines(shrunk, dataset, image_size, place)
    traces = {}
    for name, (precision, frozen, batch_norm) in cases.items():
        tell(name)
        tree = shrunk.model_dump()
        tree["train"]["precision"] = precision
        tree["freeze"] = {"depth": frozen, "batch_norm": batch_norm}
        traces[name] = run_case(RunConfig.model_validate(tree), dataset, place, strategy, pipelines)
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


def run_case(
    config: RunConfig, dataset: Dataset, place: Place, strategy: tf.distribute.Strategy, pipelines: Pipelines
) -> Trace:
    """Train ``config`` on this replica's share and return what was computed."""
    per_epoch = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
    cut = per_epoch + 1
    # The undisturbed run keeps its state at the cut, as it would with a checkpoint there.
    plan = Plan(per_epoch, config.train.epochs, checkpoint_every_steps=cut)
    with strategy.scope():
        network = build_network(config, len(dataset.labels))
        task = Task(config, network, total_steps=plan.total_steps, objective=make_objective(config, dataset))
    recorder = _GradientRecorder(task)
    losses, states = _train(task, pipelines.train(0), plan, place)
    end = dump_state(task)
    metrics = make_evaluate(task, len(dataset.labels), place.alive)(pipelines.validation)
    own = digest(state_variables(task))
    same = place.broadcast(own) == own
    load_state(task, states[cut])
    _train(task, pipelines.train(cut), replace(plan, start_step=cut), place)
    agreed = _over_replicas(task, [float(not same), float(dump_state(task) != end), pipelines.own_examples])
    return Trace(
        losses=losses,
        gradient=recorder.first,
        metrics=metrics,
        same_on_all_ranks=bool(agreed[0] == 0),
        resumed_equal=bool(agreed[1] == 0),
        examples_per_epoch=float(agreed[2]),
        head_only=network.frozen_depth == len(network.blocks),
    )


class Pipelines:
    """This replica's batches, the same in every case; built once, since tracing them takes seconds."""

    def __init__(self, config: RunConfig, dataset: Dataset, image_size: tuple[int, int], place: Place) -> None:
        """Build the validation batches and count the training examples of one epoch."""
        share: dict[str, Any] = {"rank": place.rank, "num_workers": place.num_workers}
        per_epoch = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
        self.train = functools.cache(
            lambda start_step: train_batches(dataset, config, image_size, start_step=start_step, **share)
        )
        self.validation = evaluation_batches(dataset, config, image_size, "validation", batch_size=BATCH, **share)
        self.own_examples = sum(float(tf.reduce_sum(batch["weight"])) for batch in self.train(0).take(per_epoch))


def _train(task: Task, batches: tf.data.Dataset, plan: Plan, place: Place) -> tuple[list[float], dict[int, bytes]]:
    """Take all steps of the plan; returns the loss of each, and the state at each checkpoint by step."""
    losses: list[float] = []
    states = {}
    for progress in train_epochs(task, batches, dict, plan):
        losses.extend(progress.losses.tolist())
        if plan.is_pause(progress.step):
            states[progress.step] = dump_state(task)
        place.alive()
    return losses, states


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


def _over_replicas(task: Task, values: list[float]) -> np.ndarray:
    """Sum each value over replicas; a collective."""

    @tf.function
    def total(values: tf.Tensor) -> tf.Tensor:
        return task.strategy.run(task.all_reduce, args=(values,))

    return total(tf.constant(values, tf.float64)).numpy()
