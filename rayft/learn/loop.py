"""The training loop: epochs of compiled steps, each followed by an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from rayft.errors import RunFailed
from rayft.learn.step import Task
from rayft.learn.trace import NO_TRACE, NoTrace
from rayft.learn.waits import now_after

CALL_TARGET_S = 1.0
MAX_STEPS_PER_CALL = 256


@dataclass(frozen=True)
class Plan:
    """Which steps a run takes; a step is one global batch."""

    steps_per_epoch: int
    epochs: int
    start_step: int = 0
    checkpoint_every_steps: int | None = None
    stop_step: int | None = None

    @property
    def end_step(self) -> int:
        """Where the loop ends: ``stop_step``, or the end of the run."""
        return self.total_steps if self.stop_step is None else self.stop_step

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def is_pause(self, step: int) -> bool:
        """Whether an epoch or a checkpoint interval ends after ``step`` steps."""
        at_checkpoint = self.checkpoint_every_steps and step % self.checkpoint_every_steps == 0
        return step % self.steps_per_epoch == 0 or bool(at_checkpoint)

    def until_pause(self, step: int) -> int:
        """Steps from ``step`` to the next end of an epoch or checkpoint."""
        left = self.steps_per_epoch - step % self.steps_per_epoch
        if self.checkpoint_every_steps:
            left = min(left, self.checkpoint_every_steps - step % self.checkpoint_every_steps)
        return left


@dataclass(frozen=True)
class Progress:
    """What happened since the previous pause of the loop.

    Attributes:
        step: Steps done so far, in the whole run.
        losses: float64 [n], global mean loss of each of the latest n steps.
        seconds: Wall time of these steps.
        stopping: Some replica was asked to stop; nothing follows.
        metrics: Validation metrics at the end of an epoch, else None.
        input_stall_s: Part of the time in which this replica waited for batches.
        collective_wait_s: Part of the time between its gradients and their sums over all replicas.
    """

    step: int
    losses: np.ndarray
    seconds: float
    stopping: bool
    metrics: dict[str, float] | None
    input_stall_s: float = 0.0
    collective_wait_s: float = 0.0


def train_epochs(
    task: Task,
    batches: Iterable,
    evaluate: Callable[[], dict[str, float]],
    plan: Plan,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    run_steps: Callable | None = None,
    trace: NoTrace = NO_TRACE,
) -> Iterator[Progress]:
    """Train from ``plan.start_step`` to ``plan.end_step``, pausing about once a second and at each end of an epoch.

    Every replica walks the same path: whether to stop, and how many steps the next call takes, are agreed
    in a collective, never decided by one.

    Args:
        task: Network, loss and update.
        batches: This replica's slices of the global batches from ``plan.start_step`` on.
        evaluate: Returns validation metrics of the whole split; a collective.
        plan: Which steps to take.
        stop_requested: Asked once a pause; true on any replica stops all.
        run_steps: From ``compile_steps``, to use it more than once; made here where not given.
        trace: Of the steps that are asked for; they are taken one a call.

    Raises:
        RunFailed: A loss is not finite.
    """
    run_steps = run_steps or compile_steps(task)
    iterator = iter(batches)
    step, steps_per_call, step_s = plan.start_step, 1, 0.0
    stopping = False
    while step < plan.end_step and not stopping:
        count = min(steps_per_call, plan.until_pause(step), trace.limit(step))
        waited_before = task.collective_time.seconds
        started = time.perf_counter()
        # Collective: every replica hears whether any wants to stop, and the mean time of a step.
        signals = tf.constant([float(stop_requested()), step_s / task.num_replicas], tf.float64)
        with trace.around(step):
            results = run_steps(iterator, tf.constant(count), signals)
            losses, agreed, stall_s = (result.numpy() for result in results)
        seconds = time.perf_counter() - started
        _check_finite(losses, step, plan.steps_per_epoch)
        step, step_s, stopping = step + count, seconds / count, bool(agreed[0] > 0)
        at_epoch_end = step % plan.steps_per_epoch == 0
        metrics = evaluate() if at_epoch_end else None
        waited_s = max(0.0, task.collective_time.seconds - waited_before)
        yield Progress(step, losses, seconds, stopping, metrics, float(stall_s), waited_s)
        steps_per_call = _next_call(steps_per_call, float(agreed[1]))


def compile_steps(task: Task) -> Callable:
    """Return a compiled function that takes many steps a call, with no Python in between.

    It maps (iterator of batches, number of steps, signals [k]) to (losses [steps], signals summed over
    replicas [k], seconds [] that the steps waited for batches).
    """
    strategy = task.strategy

    # AutoGraph takes seconds to find that our own functions need no conversion; those of the user may.
    @tf.function(autograph=task.runs_own_code)
    def run_steps(
        iterator: tf.data.Iterator, count: tf.Tensor, signals: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        def take(
            index: tf.Tensor, losses: tf.TensorArray, stall_s: tf.Tensor, free_at: tf.Tensor
        ) -> tuple[tf.Tensor, tf.TensorArray, tf.Tensor, tf.Tensor]:
            batch = iterator.get_next()
            # A batch that is there before the step ahead of it ends keeps nobody waiting.
            stall_s += tf.maximum(now_after(batch["label"]) - free_at, 0.0)
            loss = strategy.run(task.run_step, args=(batch,))
            return index + 1, losses.write(index, tf.cast(loss, tf.float64)), stall_s, now_after(loss)

        zero = tf.constant(0.0, tf.float64)
        start = (tf.constant(0), tf.TensorArray(tf.float64, size=count), zero, tf.timestamp())
        _, losses, stall_s, _ = tf.while_loop(lambda index, *_: index < count, take, start)
        return losses.stack(), strategy.run(task.all_reduce, args=(signals,)), stall_s

    return run_steps


def _next_call(steps_per_call: int, step_s: float) -> int:
    """Steps that take about a second; grows at most fourfold, since first steps are slow to trace."""
    if step_s <= 0:
        return steps_per_call
    return max(1, min(int(CALL_TARGET_S / step_s), steps_per_call * 4, MAX_STEPS_PER_CALL))


def _check_finite(losses: np.ndarray, step: int, steps_per_epoch: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        at = step + int(bad[0])
        raise RunFailed(
            f"The loss is {losses[bad[0]]} at epoch {at // steps_per_epoch + 1}, step {at + 1}.",
            "Lower optim.learning_rate, set optim.clip_norm, or look at the data of that step.",
        )
