"""A task on its way through a run: steps, evaluations, and what follows from them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from rayft.config import RunConfig
from rayft.learn.average import EpochAverage
from rayft.learn.batches import Batches
from rayft.learn.checkpoint import Position
from rayft.learn.evaluate import make_evaluate
from rayft.learn.loop import Plan, Progress, compile_steps, train_epochs
from rayft.learn.metrics import is_better
from rayft.learn.patience import Waiting
from rayft.learn.phased import Phased
from rayft.learn.place import Place
from rayft.learn.statistics import make_statistics
from rayft.learn.step import Task
from rayft.learn.trace import NO_TRACE, NoTrace


class Training:
    """Takes the steps of a run from any position; a run and the proof of its parity both use it.

    Attributes:
        plan: Which steps there are.
        position: How far the training has come.
        batches: This rank's.
    """

    def __init__(
        self,
        config: RunConfig,
        phased: Phased,
        batches: Batches,
        place: Place,
        plan: Plan,
        validating: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        """Stand at the beginning.

        Args:
            config: The run.
            phased: Network, loss and update, in the first phase.
            batches: This rank's.
            place: This process among the workers.
            plan: Which steps there are; where it starts is left to ``go_to``.
            validating: Gives a context for each validation, to time it.
        """
        self.plan = plan
        self.batches = batches
        self._phased = phased
        self._bind()
        self.begin(config, place, validating)

    def begin(
        self, config: RunConfig, place: Place, validating: Callable[[], contextlib.AbstractContextManager]
    ) -> None:
        """Stand at the beginning, of this run or of another that takes the same steps.

        Args:
            config: The run.
            place: This process among the workers.
            validating: Gives a context for each validation, to time it.
        """
        self._config, self._place, self._validating = config, place, validating
        self.go_to(Position())

    @property
    def task(self) -> Task:
        """Network, loss and update of the current phase."""
        return self._phased.task

    @property
    def is_done(self) -> bool:
        """Whether no step is to be taken any more."""
        return self.position.stopped or self.position.step == self.plan.total_steps

    def enter_phase_of(self, step: int) -> None:
        """Enter the phase that a checkpoint made after ``step`` steps was made in; its state is to be restored."""
        if self._phased.go_to(step):
            self._bind()

    def go_to(self, position: Position) -> None:
        """Go on from ``position``, whose state the task already holds."""
        self.position = position
        self.task.updater.set_plateau_factor(position.waiting.plateau_factor)

    def run(self, stop_requested: Callable[[], bool] = lambda: False, trace: NoTrace = NO_TRACE) -> Iterator[Progress]:
        """Take the steps that are left; ``position`` has moved on when a progress is handed over."""
        batches = iter(self.batches.train(self.position.step))
        while not self.is_done:
            if self._phased.advance(self.position.step):
                self._bind()
                self.go_to(self.position)
            steps = train_epochs(
                self.task,
                batches,
                self._finish_epoch,
                replace(self.plan, start_step=self.position.step, stop_step=self._phased.end_step),
                stop_requested=stop_requested,
                run_steps=self._run_steps,
                trace=trace,
            )
            for progress in steps:
                self._advance(progress)
                yield progress
                # The metrics, and so the decision, are the same on every rank.
                if self.position.stopped or progress.stopping:
                    return

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the network holds the weights to evaluate and to keep."""
        return self.task.average.in_network() if self.task.average else contextlib.nullcontext()

    def evaluate(self, split: str) -> dict[str, float]:
        """Return the metrics of a split; empty where the split is. A collective."""
        if self.batches.dataset.size(split) == 0:
            return {}
        with self.judged():
            return self._evaluate(self.batches.evaluation(split))

    def _bind(self) -> None:
        """Compile anew: other blocks are frozen now."""
        classes = len(self.batches.dataset.labels)
        self._run_steps = compile_steps(self.task)
        self._statistics = make_statistics(self.task, self._alive)
        self._evaluate = make_evaluate(self.task, classes, self._alive)

    def _alive(self) -> None:
        self._place.alive()

    def _finish_epoch(self) -> dict[str, float]:
        """Average the weights where that is due; returns the validation metrics. A collective."""
        average, epochs_before = self.task.average, self._config.train.swa.start_fraction * self.plan.epochs
        # ``position`` is still that of the epoch before.
        if isinstance(average, EpochAverage) and self.position.epoch >= math.floor(epochs_before):
            average.add()
            if self.task.statistics:
                with average.in_network():
                    # Any epoch's batches would do; those of the first are the same after a resumption.
                    values = self._statistics(self.batches.train(), self.plan.steps_per_epoch)
                average.set_statistics(values)
        with self._validating():
            return self.evaluate("validation")

    def _advance(self, progress: Progress) -> None:
        epoch, best, waiting = progress.step // self.plan.steps_per_epoch, self.position.best, self.position.waiting
        if progress.metrics:
            waiting = self._wait(progress.metrics[self._config.train.metric])
            earlier = best["metrics"] if best else None
            if is_better(self._config.train.metric, progress.metrics, earlier):
                best = {"epoch": epoch, "step": progress.step, "metrics": progress.metrics}
        patience = self._config.train.early_stopping.patience
        stopped = patience is not None and waiting.stopping.waited >= patience
        self.go_to(Position(epoch, progress.step, best, waiting=waiting, stopped=stopped))

    def _wait(self, value: float) -> Waiting:
        """Return how long has been waited for the validation metric once it has a new value."""
        waiting, metric = self.position.waiting, self._config.train.metric
        stopping = waiting.stopping.after(metric, value, self._config.train.early_stopping.min_delta)
        options = self._config.optim.schedule_options
        plateau, factor = waiting.plateau.after(metric, value, options.min_delta), waiting.plateau_factor
        if plateau.waited >= options.patience:
            plateau, factor = replace(plateau, waited=0), max(factor * options.gamma, options.min_fraction)
        return Waiting(stopping, plateau, factor)
