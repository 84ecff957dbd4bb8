"""One replica's part of a run: build, resume, train, evaluate, hand over the package."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.order import replica_batch_size, steps_per_epoch
from rayft.data.picture import decode_picture
from rayft.data.pipeline import evaluation_batches, find_undecodable, train_batches
from rayft.errors import DataError, RunFailed
from rayft.evaluation.calibration import log_probabilities
from rayft.learn.checkpoint import Checkpoints, Position, digest
from rayft.learn.evaluate import make_evaluate
from rayft.learn.final import evaluate_finally
from rayft.learn.journal import Journal
from rayft.learn.loop import Plan, Progress, train_epochs
from rayft.learn.metrics import is_better
from rayft.learn.schedule import learning_rate
from rayft.learn.step import Forward, Task, frozen_variables, state_variables
from rayft.model.layers import portable
from rayft.model.network import Network, build_network, describe_blocks
from rayft.package.golden import Golden, choose_rows
from rayft.package.write import write_package
from rayft.prefix.prepare import prepare_prefix
from rayft.runs import RunFolder
from rayft.timing import Stopwatch

Observer = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Place:
    """This process among the workers of a run.

    Attributes:
        rank: 0 is the chief, which alone writes.
        num_workers: Processes, one replica each.
        broadcast: Gives every rank the chief's small value; a barrier.
        alive: Called whenever something was got done, for the watchdog.
    """

    rank: int
    num_workers: int
    broadcast: Callable[[Any], Any]
    alive: Callable[[], None]

    @property
    def is_chief(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def require_same(self, what: str, value: str) -> None:
        """Refuse to go on with ranks that differ.

        Raises:
            RunFailed: The value differs from the chief's.
        """
        # Barrier: every rank compares.
        if self.broadcast(value) != value:
            raise RunFailed(
                f"The {what} of rank {self.rank} differ from the chief's.",
                "Give all workers the same weights file and the same versions of rayft and TensorFlow.",
            )


def run_session(
    config: RunConfig, dataset: Dataset, place: Place, observer: Observer, strategy: tf.distribute.Strategy
) -> dict[str, Any] | None:
    """Train this replica's share from the latest checkpoint to the package.

    Args:
        config: The run.
        dataset: Its examples.
        place: This process among the workers.
        observer: Called on the chief with the progress about once a second; true asks the run to stop.
        strategy: Spans the workers.

    Returns:
        On the chief, the run's result; None on the others, and where the run was stopped.

    Raises:
        RunFailed: The loss is not finite, or the ranks differ.
        DataError: A picture cannot be decoded.
    """
    started, watch = time.perf_counter(), Stopwatch()
    with watch("building the network"):
        session = _Session(config, dataset, place, strategy, observer, watch)
    with contextlib.closing(session.prefix):
        with watch("building the network"):
            session.resume()
        with watch("training steps"):
            is_done = session.train(observer)
        return session.finish(time.perf_counter() - started) if is_done else None


class _Session:
    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        place: Place,
        strategy: tf.distribute.Strategy,
        observer: Observer,
        watch: Stopwatch,
    ) -> None:
        self.watch = watch
        self.config, self.dataset, self.place = config, dataset, place
        self.folder = RunFolder.of(config)
        self.checkpoints = Checkpoints(self.folder.checkpoints, keep=config.train.keep_checkpoints)
        per_epoch = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
        self.plan = Plan(per_epoch, config.train.epochs, 0, config.train.checkpoint_every_steps)
        self.position = Position()
        self.network: Network = build_network(config, len(dataset.labels), strategy)
        place.alive()
        with watch("prefix cache"):
            self.prefix = prepare_prefix(
                config,
                dataset,
                self.network,
                self.folder,
                share=(place.rank, place.num_workers),
                broadcast=place.broadcast,
                tell=observer if place.is_chief else lambda state: None,
                alive=place.alive,
            )
        self.task = Task(
            config,
            self.network,
            total_steps=self.plan.total_steps,
            strategy=strategy,
            cached=self.prefix.cached is not None,
        )
        place.alive()
        place.require_same("pretrained weights", digest(frozen_variables(self.task)))
        self._threads = max(1, int(config.cluster.cpus_per_worker))
        self._splits: dict[str, tf.data.Dataset] = {}
        self._evaluate = make_evaluate(self.task, len(dataset.labels), place.alive)

    def resume(self) -> None:
        """Go to the newest committed checkpoint, where there is one."""
        latest = self.checkpoints.latest() if self.place.is_chief else None
        # Barrier: the chief chooses, so that all ranks resume from the same checkpoint.
        self.position = self.place.broadcast(latest) or Position()
        self.plan = replace(self.plan, start_step=self.position.step)
        if self.position.step:
            self.checkpoints.restore(self.task, self.position.step)
        if self.place.is_chief:
            self.checkpoints.remove_orphans(self.position.step)

    def train(self, observer: Observer) -> bool:
        """Take all steps that are left; returns whether the last one was reached."""
        chief = _Chief(self, observer) if self.place.is_chief else None
        batches = train_batches(
            self.dataset,
            self.config,
            self.network.image_size,
            rank=self.place.rank,
            num_workers=self.place.num_workers,
            start_step=self.position.step,
            threads=self._threads,
            features=self.prefix.cached,
        )
        try:
            for progress in train_epochs(
                self.task,
                batches,
                self._validate,
                self.plan,
                stop_requested=lambda: chief is not None and chief.stop_requested,
            ):
                self.place.alive()
                self._advance(progress)
                if chief is not None:
                    with self.watch("checkpoints"):
                        chief.record(progress)
        except tf.errors.InvalidArgumentError as error:
            bad = [
                name
                for split in ("train", "validation")
                for name in find_undecodable(self.dataset, np.arange(self.dataset.size(split)), split)
            ]
            if not bad:
                raise
            raise DataError(
                f"{len(bad)} pictures cannot be decoded: {', '.join(bad[:20])}.",
                "Mend or remove them, or set data.on_bad: skip.",
            ) from error
        return self.position.step == self.plan.total_steps

    def evaluate(self, split: str) -> dict[str, float]:
        """Return the metrics of a split; empty where the split is. A collective."""
        if self.dataset.size(split) == 0:
            return {}
        return self._evaluate(self._batches(split))

    def _batches(self, split: str) -> tf.data.Dataset:
        if split not in self._splits:
            self._splits[split] = evaluation_batches(
                self.dataset,
                self.config,
                self.network.image_size,
                split,
                rank=self.place.rank,
                num_workers=self.place.num_workers,
                batch_size=replica_batch_size(self.config.data.global_batch_size, self.place.num_workers),
                threads=self._threads,
                features=self.prefix.cached,
            )
        return self._splits[split]

    def _validate(self) -> dict[str, float]:
        with self.watch("validation"):
            return self.evaluate("validation")

    def finish(self, wall_s: float) -> dict[str, Any] | None:
        """Evaluate the best weights on the test split and write package and result."""
        self.place.require_same("trained weights", digest(state_variables(self.task)))
        best = self.position.best or {"epoch": self.position.epoch, "step": self.position.step, "metrics": {}}
        if best["step"] != self.position.step:
            self.checkpoints.restore(self.task, best["step"])
        with self.watch("final evaluation"):
            # Barrier: every rank answers its share.
            last = evaluate_finally(
                self.task,
                self.dataset,
                self._batches,
                self.folder.storage,
                rank=self.place.rank,
                alive=self.place.alive,
            )
        if last is None:
            return None
        tested = {f"test_{name}": value for name, value in last.metrics.get("test", {}).items()}
        final = {**best["metrics"], **tested}
        with self.watch("package"):
            self._write_package(final, last.calibration)
        metric = self.config.train.metric
        return {
            "name": self.config.name,
            "status": "finished",
            "best": {"epoch": best["epoch"], "step": best["step"]}
            | ({metric: best["metrics"][metric]} if best["metrics"] else {}),
            "final": final,
            "num_workers": self.place.num_workers,
            "global_batch_size": self.config.data.global_batch_size,
            "epochs": self.plan.epochs,
            "steps": self.plan.total_steps,
            "examples_per_s": self.folder.metrics()[-1]["examples_per_s"],
            "wall_s": round(wall_s, 3),
            "prefix_cache": self.prefix.summary(),
            "package": self.folder.package.uri,
            "calibration": last.calibration,
            "timing_s": self.watch.seconds(),
        }

    def _advance(self, progress: Progress) -> None:
        epoch, best = progress.step // self.plan.steps_per_epoch, self.position.best
        if progress.metrics:
            earlier = best["metrics"] if best else None
            if is_better(self.config.train.metric, progress.metrics, earlier):
                best = {"epoch": epoch, "step": progress.step, "metrics": progress.metrics}
        self.position = Position(epoch, progress.step, best)

    def _write_package(self, metrics: dict[str, float], calibration: dict[str, Any]) -> None:
        sizes = {split: size for split in ("train", "validation", "test") if (size := self.dataset.size(split))}
        golden_split = next(split for split in ("validation", "test", "train") if split in sizes)
        boundary = self.network.boundary
        with tempfile.TemporaryDirectory(prefix="rayft-package-") as scratch:
            local = Path(scratch) / "package"
            write_package(
                local,
                model=portable(self.network.model),
                config=self.config,
                labels=self.dataset.labels,
                image_size=self.network.image_size,
                licence=self.network.licence,
                metrics=metrics,
                dataset_fingerprint=self.dataset.fingerprint,
                blocks_frozen=[block.name for block in self.network.blocks[: self.network.frozen_depth]],
                blocks=describe_blocks(self.network),
                calibration=calibration,
                golden=self._golden(golden_split, calibration["temperature"]),
                golden_split=golden_split,
                examples=sizes,
                boundary=None if boundary is None else boundary._keras_history.operation.name,
            )
            self.folder.package.delete()
            self.folder.package.upload_folder(local)

    def _golden(self, split: str, temperature: float) -> Golden:
        """Answer a few examples as ``evaluate`` does."""
        rows = self.dataset.split(split)["row"].to_numpy()
        inputs = self.dataset.reader.read(rows[choose_rows(len(rows))])
        images = [
            decode_picture(tf.constant(encoded), self.network.image_size, self.config.data.channels)
            for encoded in inputs
        ]
        # The task's own may begin behind the prefix cache.
        logits = Forward(self.network)(tf.stack(images))
        return Golden(tuple(inputs), np.exp(log_probabilities(logits.numpy(), temperature)).astype(np.float32))


class _Chief:
    """What rank 0 does besides: journal, checkpoints, and telling the observer."""

    def __init__(self, session: _Session, observer: Observer) -> None:
        self._session = session
        self._observer = observer
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
            learning_rate=lambda step: float(
                learning_rate(config.optim, tf.constant(step, tf.int64), plan.total_steps)
            ),
        )
        self._tell(float("nan"), {})

    def record(self, progress: Progress) -> None:
        """Write down what happened, checkpoint where it is due, and ask whether to stop."""
        session = self._session
        self._journal.add(progress.losses, progress.seconds, progress.metrics)
        if progress.stopping or session.plan.is_pause(progress.step):
            self._journal.flush()
            session.checkpoints.save(session.task, replace(session.position, unlogged=self._journal.unlogged))
        self._tell(float(progress.losses[-1]), progress.metrics or {})

    def _tell(self, loss: float, metrics: dict[str, float]) -> None:
        plan, position = self._session.plan, self._session.position
        rate = self._journal.steps_per_s
        self.stop_requested = self._observer(
            {
                "phase": "training",
                "epoch": min(position.step // plan.steps_per_epoch + 1, plan.epochs),
                "epochs": plan.epochs,
                "step": position.step,
                "steps": plan.total_steps,
                "loss": loss,
                "metrics": metrics,
                "examples_per_s": self._journal.examples_per_s,
                "left_s": (plan.total_steps - position.step) / rate if rate else None,
                "done_epochs": position.epoch,
                "notices": self._session.prefix.notices,
            }
        )
