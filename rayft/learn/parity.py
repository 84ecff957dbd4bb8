"""Short runs whose numbers are compared between worker counts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from rayft.config import BLOCKS_RATE, AugmentConfig, RunConfig, is_auto
from rayft.data.dataset import Dataset
from rayft.data.objective import make_objective
from rayft.learn.batches import Batches
from rayft.learn.checkpoint import Position, dump_state, load_state
from rayft.learn.digest import digest
from rayft.learn.distill import Teacher
from rayft.learn.loop import Plan
from rayft.learn.optimizer import Updater
from rayft.learn.parity_trace import Trace
from rayft.learn.phased import Phased
from rayft.learn.place import Place
from rayft.learn.state import state_variables
from rayft.learn.step import Task
from rayft.learn.training import Training
from rayft.model.backbone import default_image_size, smallest_side
from rayft.model.network import build_network

EPOCHS = 2
BATCH = 8
EXAMPLES = 21  # Of the last batch one worker of two has all of its part, and one of three nothing but padding.
SIDE = 64
AUGMENT = AugmentConfig(
    horizontal_flip=True, crop=0.2, rotate=15, brightness=0.1, contrast=0.2, saturation=0.2, hue=0.05
)


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
    if config.model.adapter is not None:
        # Adapters keep the statistics of BatchNorm, and lie in blocks that are not frozen.
        cases = {name: case for name, case in cases.items() if case[1] != "all" and case[2] != "trainable"}
    if config.freeze.schedule or config.freeze.head_first_epochs or config.freeze.gradual:
        cases["float64, head first"] = ("float64", depth, "frozen")
    shrunk = shrink(config, side)
    image_size = (side, side) if isinstance(side, int) else side or default_image_size(config.model)
    batches = Batches(dataset, shrunk, image_size, place)
    traces = {}
    for name, (precision, frozen, batch_norm) in cases.items():
        tell(name)
        tree = shrunk.model_dump()
        tree["train"]["precision"] = precision
        tree["freeze"] = {"depth": frozen, "batch_norm": batch_norm}
        if name.endswith("head first"):
            tree["freeze"]["head_first_epochs"] = 1
        if frozen == "all":
            # These treat blocks that train apart; there is none.
            tree["optim"] |= {"layer_decay": 1.0, "head_multiplier": 1.0}
            tree["train"]["l2_sp"]["alpha"] = 0.0
        traces[name] = run_case(RunConfig.model_validate(tree), dataset, place, strategy, batches)
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
    if is_auto(config.optim.learning_rate):
        tree["optim"]["learning_rate"] = BLOCKS_RATE
    tree["freeze"] |= {"schedule": (), "head_first_epochs": 0, "gradual": 0}
    tree["optim"]["clip_norm"] = config.optim.clip_norm or 0.1
    tree["train"] |= {
        "epochs": EPOCHS,
        "checkpoint_every_steps": None,
        # Every worker needs an example of each part.
        "accumulate_steps": min(config.train.accumulate_steps, 2),
    }
    # The proof chooses its own numbers of workers.
    tree["cluster"]["workers"] = 1
    return RunConfig.model_validate(tree)


def subset(dataset: Dataset) -> Dataset:
    """Return the dataset with the first few training and validation examples alone."""
    parts = [dataset.split("train").slice(0, EXAMPLES), dataset.split("validation").slice(0, EXAMPLES)]
    return replace(dataset, examples=pa.concat_tables(parts))


def run_case(
    config: RunConfig, dataset: Dataset, place: Place, strategy: tf.distribute.Strategy, batches: Batches
) -> Trace:
    """Train ``config`` on this replica's share and return what was computed."""
    # The undisturbed run keeps its state at the cut, as it would with a checkpoint there.
    cut = batches.steps_per_epoch + 1
    plan = Plan(batches.steps_per_epoch, config.train.epochs, checkpoint_every_steps=cut)
    # As in a run: the network alone spans the workers.
    network = build_network(config, len(dataset.labels), strategy)
    teacher = Teacher(config.train.distill, dataset.labels) if config.train.distill else None
    phased = Phased(config, network, plan, strategy, teacher, objective=make_objective(config, dataset))
    recorder = _GradientRecorder(phased.task)
    head_only = phased.network.frozen_depth == len(phased.network.blocks)
    training = Training(config, phased, batches, place, plan)
    losses, states = _train(training, place)
    end, metrics = _end_of(training), training.evaluate("validation")
    own = digest(state_variables(training.task))
    same = place.broadcast(own) == own
    position, state = states[cut]
    training.enter_phase_of(position.step)
    load_state(training.task, state)
    training.go_to(position)
    again, _ = _train(training, place)
    differs = _end_of(training) != end or again != losses[position.step :]
    task = training.task
    examples = _own_examples(batches)
    agreed = _over_replicas(task, [float(not same), float(differs), examples])
    return Trace(
        losses=losses,
        gradient=recorder.first,
        metrics=metrics,
        weights=np.concatenate([np.asarray(variable, "float64").ravel() for variable in task.variables]),
        same_on_all_ranks=bool(agreed[0] == 0),
        resumed_equal=bool(agreed[1] == 0),
        examples_per_epoch=float(agreed[2]),
        head_only=head_only,
    )


@functools.cache
def _own_examples(batches: Batches) -> float:
    """Count the training examples that this rank sees in one epoch."""
    return sum(float(tf.reduce_sum(batch["weight"])) for batch in batches.train().take(batches.steps_per_epoch))


def _train(training: Training, place: Place) -> tuple[list[float], dict[int, tuple[Position, bytes]]]:
    """Take all steps that are left; returns the loss of each, and what each checkpoint would hold by step."""
    losses: list[float] = []
    states = {}
    for progress in training.run():
        losses.extend(progress.losses.tolist())
        if training.plan.is_pause(progress.step):
            states[progress.step] = (training.position, dump_state(training.task))
        place.alive()
    return losses, states


def _end_of(training: Training) -> tuple[Position, bytes]:
    return training.position, dump_state(training.task)


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
