"""What the first replica does besides training: journal, checkpoints, telling how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from rayft.learn.journal import Journal
from rayft.learn.loop import Progress
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
        config, plan, train_size = session.config, session.plan, session.dataset.size("train")
        size, per_epoch = config.data.global_batch_size, plan.steps_per_epoch
        self._journal = Journal(
            session.folder,
            start_step=session.position.step,
            unlogged=session.position.unlogged,
            steps_per_epoch=per_epoch,
            log_every_steps=config.train.log_every_steps,
            examples_per_step=lambda step: min(size, train_size - step % per_epoch * size),
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
        self._tell(float("nan"), {})

    def record(self, progress: Progress) -> None:
        """Write down what happened, checkpoint where it is due, and ask whether to stop."""
        session = self._session
        self._journal.add(progress.losses, progress.seconds, progress.metrics)
        if progress.stopping or session.plan.is_pause(progress.step):
            self._journal.flush()
            session.checkpoints.save(session.task, replace(session.position, unlogged=self._journal.unlogged))
        self._plateau_factor = session.position.waiting.plateau_factor
        self._tell(float(progress.losses[-1]), progress.metrics or {})

    def _tell(self, loss: float, metrics: dict[str, float]) -> None:
        plan, position = self._session.plan, self._session.position
        rate = self._journal.steps_per_s
        self.stop_requested = self._observer(
            {
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
        )
