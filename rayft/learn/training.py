"""A task on its way through a run: steps, evaluations, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from rayft.config import RunConfig
from rayft.learn.batches import Batches
from rayft.learn.checkpoint import Position
from rayft.learn.evaluate import make_evaluate
from rayft.learn.loop import Plan, Progress, compile_steps, train_epochs
from rayft.learn.metrics import is_better
from rayft.learn.place import Place
from rayft.learn.step import Task


class Training:
    """Takes the steps of a run from any position; a run and the proof of its parity both use it.

    Attributes:
        task: Network, loss and update.
        plan: Which steps there are.
        position: How far the training has come.
    """

    def __init__(self, config: RunConfig, task: Task, batches: Batches, place: Place, plan: Plan) -> None:
        """Stand at the beginning.

        Args:
            config: The run.
            task: Network, loss and update.
            batches: This rank's.
            place: This process among the workers.
            plan: Which steps there are; where it starts is left to ``go_to``.
        """
        self.task = task
        self.plan = plan
        self.position = Position()
        self._config = config
        self._batches = batches
        self._run_steps = compile_steps(task)
        self._evaluate = make_evaluate(task, len(batches.dataset.labels), place.alive)

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        return self.position.step == self.plan.total_steps

    def go_to(self, position: Position) -> None:
        """Go on from ``position``, whose state the task already holds."""
        self.position = position

    def run(self, stop_requested: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Take the steps that are left; ``position`` has moved on when a progress is handed over."""
        steps = train_epochs(
            self.task,
            self._batches.train(self.position.step),
            lambda: self.evaluate("validation"),
            replace(self.plan, start_step=self.position.step),
            stop_requested=stop_requested,
            run_steps=self._run_steps,
        )
        for progress in steps:
            self._advance(progress)
            yield progress

    def evaluate(self, split: str) -> dict[str, float]:
        """Return the metrics of a split; empty where the split is. A collective."""
        if self._batches.dataset.size(split) == 0:
            return {}
        return self._evaluate(self._batches.evaluation(split))

    def _advance(self, progress: Progress) -> None:
        epoch, best = progress.step // self.plan.steps_per_epoch, self.position.best
        if progress.metrics:
            earlier = best["metrics"] if best else None
            if is_better(self._config.train.metric, progress.metrics, earlier):
                best = {"epoch": epoch, "step": progress.step, "metrics": progress.metrics}
        self.position = Position(epoch, progress.step, best)
