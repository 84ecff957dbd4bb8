"""What the first replica does besides training: journal, checkpoints, telling how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from rayft.learn.journal import Journal
from rayft.learn.loop import Progress
from rayft.learn.measures import epoch_fields, tell_of_run
from rayft.learn.schedule import learning_rate

if TYPE_CHECKING:
    from rayft.learn.session import Session

Observer = Callable[[dict[str, Any]], bool]


class Chief:
    """What rank 0 does besides: journal, checkpoints, and telling the observer."""

    def __init__(self, session: Session, observer: Observer) -> None:
        """Stand beside a session that has gone to its position.

        Args:
            session: What is trained.
            observer: Called with the progress; true asks the run to stop.
        """
        self._session = session
        self._observer = observer
        # Of the steps that come next; the position's may have dropped at the end of an epoch.
        self._plateau_factor = session.position.waiting.plateau_factor
        self._deciding = session.config.train.metric
        self.stop_requested = False
        config, plan = session.config, session.plan
        per_epoch = plan.steps_per_epoch
        self._journal = Journal(
            session.folder,
            start_step=session.position.step,
            unlogged=session.position.unlogged,
            steps_per_epoch=per_epoch,
            log_every_steps=config.train.log_every_steps,
            examples_per_step=self._examples_of,
            learning_rate=lambda step: (
                session.phased.rate_factor(step)
                * float(
                    learning_rate(config.optim, tf.constant(step, tf.int64), plan.total_steps, self._plateau_factor)
                )
            ),
            stage=session.phased.describe,
        )
        chosen = session.folder.choices()
        self._notices = [*(f"{name}: auto chose {value:g}" for name, value in chosen.items()), *session.notices]
        self._tell(float("nan"), {}, 0)

    def record(self, progress: Progress) -> None:
        """Write down what happened, checkpoint where it is due, and ask whether to stop."""
        session = self._session
        self._journal.add(progress.losses, progress.seconds, progress.metrics)
        if progress.stopping or session.plan.is_pause(progress.step):
            self._journal.flush()
            self._save()
        self._plateau_factor = session.position.waiting.plateau_factor
        first = progress.step - len(progress.losses)
        examples = sum(self._examples_of(step) for step in range(first, progress.step))
        state = self._tell(float(progress.losses[-1]), progress.metrics or {}, examples)
        if progress.step % session.plan.steps_per_epoch == 0:
            session.place.sink.event("epoch", **epoch_fields(state, progress))

    def _save(self) -> None:
        session, started = self._session, time.perf_counter()
        session.checkpoints.save(session.task, replace(session.position, unlogged=self._journal.unlogged))
        seconds = time.perf_counter() - started
        session.place.sink.record("rayft_train_checkpoint_seconds", seconds)
        session.place.sink.event("checkpoint", step=session.position.step, seconds=round(seconds, 3))

    def _examples_of(self, step: int) -> int:
        """Return the number of real examples of a step, counted from 0."""
        size, per_epoch = self._session.config.data.global_batch_size, self._session.plan.steps_per_epoch
        return min(size, self._session.dataset.size("train") - step % per_epoch * size)

    def _tell(self, loss: float, metrics: dict[str, float], examples: int) -> dict[str, Any]:
        """Tell the observer and the sink how far the run is, after a step or several of so many examples."""
        plan, position, place = self._session.plan, self._session.position, self._session.place
        rate = self._journal.steps_per_s
        state = {
            "phase": "training",
            **self._session.phased.describe(position.step),
            "epoch": min(position.step // plan.steps_per_epoch + 1, plan.epochs),
            "epochs": plan.epochs,
            "step": position.step,
            "steps": plan.total_steps,
            "loss": loss,
            # The one that decides comes first; a line has room for one.
            "metrics": {name: metrics[name] for name in sorted(metrics, key=lambda name: name != self._deciding)},
            "examples_per_s": self._journal.examples_per_s,
            "left_s": (plan.total_steps - position.step) / rate if rate else None,
            "done_epochs": position.epoch,
            "notices": [*self._session.prefix.notices, *self._notices],
        }
        tell_of_run(place.sink, state, workers=place.num_workers, examples=examples)
        self.stop_requested = self._observer(state)
        return state
