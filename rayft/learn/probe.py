"""A few real steps of a run, timed on this machine before the run exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.features import Features
from rayft.data.objective import make_objective
from rayft.learn.batch_size import peak_memory
from rayft.learn.batches import Batches
from rayft.learn.distill import Teacher
from rayft.learn.evaluate import make_evaluate
from rayft.learn.loop import Plan, compile_steps
from rayft.learn.phased import Phased
from rayft.learn.place import Place
from rayft.learn.state import state_variables
from rayft.model.network import Network

# After the traced step, these use up what the pipeline had decoded while TensorFlow traced.
_WARM_STEPS = 3
_TARGET_S = 2.0
_FEWEST, _MOST = 3, 64


@dataclass(frozen=True)
class Probe:
    """What one worker was seen to take.

    Attributes:
        step_s: Seconds of a step by number of frozen blocks, for the first and the last phase.
        evaluation_s: Seconds of an evaluation batch; 0 without a validation and a test split.
        start_s: Seconds to trace and compile, over the measured phases.
        gradient_bytes: What the workers sum up in every step.
        checkpoint_bytes: One checkpoint of the last phase, without the few bytes of its headers.
        weight_bytes: All weights of the network.
        peak_bytes: Largest resident memory of this process, GPU memory not counted.
    """

    step_s: dict[int, float]
    evaluation_s: float
    start_s: float
    gradient_bytes: int
    checkpoint_bytes: int
    weight_bytes: int
    peak_bytes: int

    def step_s_at(self, depth: int) -> float:
        """Return the seconds of a step with so many blocks frozen; between two measured depths on a straight line."""
        depths = sorted(self.step_s)
        return float(np.interp(depth, depths, [self.step_s[each] for each in depths]))


def measure_run(
    config: RunConfig,
    dataset: Dataset,
    network: Network,
    *,
    features: Features | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Probe:
    """Take real steps, and evaluate real batches, as the first of ``cluster.workers`` does; trains ``network``.

    Nothing is written. The other workers are not there, so that the exchange of gradients is not timed.

    Args:
        config: The run, without ``auto``.
        dataset: Its examples.
        network: In its first phase.
        features: What the prefix cache would hold; empty where the run reads pictures.
        clock: Gives seconds.

    Raises:
        RayftError: Teacher, loss, optimizer or step cannot be loaded.
        tf.errors.ResourceExhaustedError: A GPU has too little memory.
    """
    plan, phased, batches = _prepare(config, dataset, network, features)
    split = next((name for name in ("validation", "test") if dataset.size(name)), None)
    step_s: dict[int, float] = {}
    start_s = evaluation_s = 0.0
    for end_of_phase in dict.fromkeys((1, plan.total_steps)):
        phased.go_to(end_of_phase)
        depth = phased.network.phases[phased.network.phase].depth
        if depth in step_s:
            continue
        traced, step_s[depth] = _time_steps(phased, batches, clock)
        start_s += traced
    if split is not None:
        evaluate = make_evaluate(phased.task, len(dataset.labels))
        part = batches.evaluation(split).repeat()
        traced, _ = _timed(lambda: evaluate(part.take(1)), clock)
        seconds, _ = _timed(lambda: evaluate(part.take(_FEWEST)), clock)
        evaluation_s = seconds / _FEWEST
        start_s += traced
    task = phased.task
    gradient, checkpoint = _num_bytes(task.variables), _num_bytes(state_variables(task))
    weights = _num_bytes(network.model.weights)
    return Probe(step_s, evaluation_s, start_s, gradient, checkpoint, weights, peak_memory())


def _prepare(
    config: RunConfig, dataset: Dataset, network: Network, features: Features | None
) -> tuple[Plan, Phased, Batches]:
    workers = config.cluster.workers
    place = Place(0, workers, lambda value: value, lambda: None, workers)
    threads = max(1, int(config.cluster.cpus_per_worker))
    batches = Batches(dataset, config, network.image_size, place, threads, features)
    plan = Plan(batches.steps_per_epoch, config.train.epochs)
    teacher = Teacher(config.train.distill, dataset.labels) if config.train.distill else None
    phased = Phased(
        config,
        network,
        plan,
        tf.distribute.get_strategy(),
        teacher,
        cached=features is not None,
        objective=make_objective(config, dataset),
    )
    return plan, phased, batches


def _time_steps(phased: Phased, batches: Batches, clock: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds of the traced first step, and of a step after that."""
    run_steps = compile_steps(phased.task)
    # A run may be shorter than the probe.
    iterator = iter(batches.train().repeat())
    signals = tf.zeros([1], tf.float64)

    def take(count: int) -> None:
        run_steps(iterator, tf.constant(count), signals)[0].numpy()

    traced, _ = _timed(lambda: take(1), clock)
    warm, _ = _timed(lambda: take(_WARM_STEPS), clock)
    each = warm / _WARM_STEPS
    count = max(_FEWEST, min(int(_TARGET_S / each) if each > 0 else _MOST, _MOST))
    seconds, _ = _timed(lambda: take(count), clock)
    return traced, seconds / count


def _num_bytes(variables: Iterable[Any]) -> int:
    return sum(np.asarray(variable).nbytes for variable in variables)


def _timed(function: Callable[[], object], clock: Callable[[], float]) -> tuple[float, object]:
    started = clock()
    result = function()
    return clock() - started, result
