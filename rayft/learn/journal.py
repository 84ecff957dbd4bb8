"""What a run writes down while it trains: lines of metrics, TensorBoard events."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rayft.errors import StorageError
from rayft.runs import RunFolder
from rayft.storage import Storage


class Journal:
    """Collects the losses of steps into lines, and writes them with each checkpoint.

    A line has epoch, step (done so far), loss (mean over the steps since the previous line),
    learning_rate and examples_per_s; the line that ends an epoch has the validation metrics as well.

    Attributes:
        lines: The lines so far, one mapping each.
        examples_per_s: Of the steps since this process began, the first call left out: it compiles.
        steps_per_s: Likewise, steps.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        start_step: int,
        unlogged: Sequence[float],
        steps_per_epoch: int,
        log_every_steps: int,
        examples_per_step: Callable[[int], int],
        learning_rate: Callable[[int], float],
        stage: Callable[[int], dict[str, int]] = lambda step: {},
    ) -> None:
        """Continue the journal of ``folder``; lines after ``start_step`` are dropped, their steps come again.

        Args:
            folder: The run's folder.
            start_step: Steps done before.
            unlogged: Losses of the latest of them that no line covers yet.
            steps_per_epoch: For the epoch of a step.
            log_every_steps: Steps per line.
            examples_per_step: Maps a step, from 0, to its number of real examples.
            learning_rate: Maps a step, from 0, to its rate.
            stage: Maps a step, from 0, to what a line says of its phase.
        """
        self.lines = [line for line in folder.metrics() if line["step"] <= start_step]
        self.examples_per_s = 0.0
        self.steps_per_s = 0.0
        self._folder = folder
        self._steps_per_epoch = steps_per_epoch
        self._log_every_steps = log_every_steps
        self._examples_per_step = examples_per_step
        self._learning_rate = learning_rate
        self._stage = stage
        self._step = start_step
        self._losses = list(unlogged)
        self._warm = False
        self._examples, self._steps, self._seconds = 0, 0, 0.0
        where = folder.tensorboard
        self._events = Path(where.root) if where.is_local else Path(tempfile.mkdtemp(prefix="rayft-events-"))
        with _explained(where):
            self._writer = tf.summary.create_file_writer(str(self._events))

    @property
    def unlogged(self) -> tuple[float, ...]:
        """Losses since the latest line; a checkpoint keeps them, so that a resumed run writes the same lines."""
        return tuple(self._losses)

    def add(self, losses: np.ndarray, seconds: float, metrics: dict[str, float] | None) -> None:
        """Take the losses float64 [n] of the next n steps, which took ``seconds`` in all."""
        self._measure(len(losses), seconds)
        for loss in losses:
            self._step += 1
            self._losses.append(float(loss))
            at_epoch_end = self._step % self._steps_per_epoch == 0
            if self._step % self._log_every_steps == 0 or at_epoch_end:
                self._write_line(metrics if at_epoch_end else None)

    def flush(self) -> None:
        """Write the lines so far to the run's folder."""
        self._folder.write_metrics(self.lines)
        where = self._folder.tensorboard
        with _explained(where):
            self._writer.flush()
        if not where.is_local:
            where.upload_folder(self._events)

    def _measure(self, steps: int, seconds: float) -> None:
        examples = sum(self._examples_per_step(self._step + index) for index in range(steps))
        if self._warm:
            self._examples, self._steps = self._examples + examples, self._steps + steps
            self._seconds += seconds
            self.examples_per_s = self._examples / self._seconds
            self.steps_per_s = self._steps / self._seconds
        else:
            self.examples_per_s, self.steps_per_s = examples / seconds, steps / seconds
        self._warm = True

    def _write_line(self, metrics: dict[str, float] | None) -> None:
        metrics = metrics or {}
        train = {
            "loss": float(np.mean(self._losses)),
            "learning_rate": self._learning_rate(self._step - 1),
            "examples_per_s": round(self.examples_per_s, 2),
        }
        self._losses = []
        line: dict[str, Any] = {"epoch": (self._step - 1) // self._steps_per_epoch + 1, "step": self._step}
        line |= self._stage(self._step - 1)
        self.lines.append({**line, **train, **metrics})
        with self._writer.as_default(step=self._step):
            for part, values in (("train", train), ("validation", metrics)):
                for name, value in values.items():
                    tf.summary.scalar(f"{part}/{name}", value)


@contextlib.contextmanager
def _explained(where: Storage) -> Iterator[None]:
    """Turn TensorFlow's errors of writing events into ours."""
    try:
        yield
    except tf.errors.OpError as error:
        raise StorageError(
            f"Cannot write {where.uri}: {str(error.message).splitlines()[0]}",
            "Free some space, or choose another storage.",
        ) from None
