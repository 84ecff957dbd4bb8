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

from rayft.config import RunConfig, is_auto
from rayft.data.dataset import Dataset
from rayft.data.notices import accuracy_notice
from rayft.data.objective import make_objective
from rayft.data.picture import decode_picture
from rayft.data.pipeline import find_undecodable
from rayft.data.views import answer_views, tta_record
from rayft.errors import DataError
from rayft.evaluation.calibration import as_probabilities
from rayft.learn.batches import Batches
from rayft.learn.checkpoint import Checkpoints, Position
from rayft.learn.digest import digest
from rayft.learn.distill import Teacher
from rayft.learn.final import FinalEvaluation, evaluate_finally
from rayft.learn.journal import Journal
from rayft.learn.loop import Plan, Progress
from rayft.learn.phased import Phased
from rayft.learn.place import Place
from rayft.learn.remarks import start_notices
from rayft.learn.schedule import learning_rate
from rayft.learn.settle import settle_batch_size, settle_rate
from rayft.learn.step import Forward, Task, state_variables
from rayft.learn.training import Training
from rayft.model.layers import portable
from rayft.model.network import Network, build_network, describe_blocks
from rayft.package.golden import Golden, choose_rows
from rayft.package.write import write_package
from rayft.prefix.decide import Decision
from rayft.prefix.prepare import Prefix, prepare_prefix
from rayft.runs import BATCH_SIZE, RATE, RunFolder, with_choices
from rayft.storage import Storage
from rayft.timing import Stopwatch

Observer = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Output:
    """Where a session writes.

    Attributes:
        folder: Checkpoints and metrics.
        package: The model package; None leaves out the final evaluation as well.
    """

    folder: RunFolder
    package: Storage | None

    @classmethod
    def of(cls, config: RunConfig) -> Output:
        """Return the run folder of the config, with its package."""
        folder = RunFolder.of(config)
        return cls(folder, folder.package)


def run_session(
    config: RunConfig,
    dataset: Dataset,
    place: Place,
    observer: Observer,
    strategy: tf.distribute.Strategy,
    *,
    output: Output | None = None,
) -> dict[str, Any] | None:
    """Train this replica's share from the latest checkpoint to the package.

    Args:
        config: The run.
        dataset: Its examples.
        place: This process among the workers.
        observer: Called on the chief with the progress about once a second; true asks the run to stop.
        strategy: Spans the workers.
        output: Where checkpoints, metrics and package go; the config's own run folder if not given.

    Returns:
        On the chief, the run's result; None on the others, and where the run was stopped.

    Raises:
        RunFailed: The loss is not finite, or the ranks differ.
        DataError: A picture cannot be decoded.
    """
    started, watch = time.perf_counter(), Stopwatch()
    output = output or Output.of(config)
    folder = output.folder
    # Barrier: what an earlier start of this run chose holds.
    config = with_choices(config, place.broadcast(folder.choices() if place.is_chief else None))
    if is_auto(config.data.global_batch_size):
        with watch("choosing the batch size"):
            config = settle_batch_size(config, len(dataset.labels), dataset.size("train"), place, strategy)
        if place.is_chief:
            folder.choose(config, (BATCH_SIZE,))
    with watch("building the network"):
        session = _Session(config, dataset, place, strategy, observer, output, watch)
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
        output: Output,
        watch: Stopwatch,
    ) -> None:
        self.watch = watch
        self.dataset, self.place = dataset, place
        self.folder, self.package = output.folder, output.package
        self.checkpoints = Checkpoints(self.folder.checkpoints, keep=config.train.keep_checkpoints)
        network = build_network(config, len(dataset.labels), strategy)
        place.alive()
        with watch("prefix cache"):
            self.prefix = self._prepare_prefix(config, network, observer)
        cached = self.prefix.cached is not None
        threads = max(1, int(config.cluster.cpus_per_worker))
        self.batches = Batches(dataset, config, network.image_size, place, threads, self.prefix.cached)
        self.plan = Plan(self.batches.steps_per_epoch, config.train.epochs, 0, config.train.checkpoint_every_steps)
        teacher = Teacher(config.train.distill, dataset.labels) if config.train.distill else None
        objective = make_objective(config, dataset)
        place.alive()
        if is_auto(config.optim.learning_rate):
            steps = self.plan.total_steps
            config = settle_rate(
                config, network, self.batches.train(), steps, place, strategy, teacher, cached, objective
            )
            if place.is_chief:
                self.folder.choose(config, (RATE,))
        self.config = config
        self.notices = start_notices(config, network, dataset, self.plan.total_steps)
        self.phased = Phased(config, network, self.plan, strategy, teacher, cached=cached, objective=objective)
        place.alive()
        place.require_same("pretrained weights", self.task.frozen_sha256)
        self.training = Training(config, self.phased, self.batches, place, self.plan, lambda: watch("validation"))

    @property
    def network(self) -> Network:
        """The network, in its current phase."""
        return self.phased.network

    @property
    def task(self) -> Task:
        """Loss and update of the current phase."""
        return self.phased.task

    @property
    def position(self) -> Position:
        """How far the training has come."""
        return self.training.position

    def resume(self) -> None:
        """Go to the newest committed checkpoint, where there is one."""
        latest = self.checkpoints.latest() if self.place.is_chief else None
        # Barrier: the chief chooses, so that all ranks resume from the same checkpoint.
        position = self.place.broadcast(latest) or Position()
        if position.step:
            self.training.enter_phase_of(position.step)
            self.checkpoints.restore(self.task, position.step)
        self.training.go_to(position)
        if self.place.is_chief:
            self.checkpoints.remove_orphans(position.step)

    def train(self, observer: Observer) -> bool:
        """Take all steps that are left; returns whether none is left then."""
        chief = _Chief(self, observer) if self.place.is_chief else None
        try:
            for progress in self.training.run(lambda: chief is not None and chief.stop_requested):
                self.place.alive()
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
        return self.training.is_done

    def _prepare_prefix(self, config: RunConfig, network: Network, observer: Observer) -> Prefix:
        if len(network.phases) > 1 or config.train.distill is not None:
            reason = "several freeze depths" if len(network.phases) > 1 else "a teacher needs the pictures"
            return Prefix(Decision(False, reason), None, 0)
        return prepare_prefix(
            config,
            self.dataset,
            network,
            self.folder,
            share=(self.place.rank, self.place.num_workers),
            broadcast=self.place.broadcast,
            tell=observer if self.place.is_chief else lambda state: None,
            alive=self.place.alive,
        )

    def finish(self, wall_s: float) -> dict[str, Any] | None:
        """Evaluate the best weights on the test split and write package and result."""
        self.place.require_same("trained weights", digest(state_variables(self.task)))
        if self.package is None:
            return {"prefix_cache": self.prefix.summary()} if self.place.is_chief else None
        best = self.position.best or {"epoch": self.position.epoch, "step": self.position.step, "metrics": {}}
        if best["step"] != self.position.step:
            self.training.enter_phase_of(best["step"])
            self.checkpoints.restore(self.task, best["step"])
        with self.watch("final evaluation"), self.training.judged():
            # Barrier: every rank answers its share.
            last = self._evaluate_finally()
        if last is None:
            return None
        tested = {f"test_{name}": value for name, value in last.metrics.get("test", {}).items()}
        final = {**best["metrics"], **tested}
        with self.watch("package"), self.training.judged():
            self._write_package(self.package, final, last.calibration)
        metric = self.config.train.metric
        validated = self.dataset.size("validation")
        wide = accuracy_notice(best["metrics"]["accuracy"], validated) if validated and best["metrics"] else None
        return {
            "name": self.config.name,
            "status": "finished",
            "best": {"epoch": best["epoch"], "step": best["step"]}
            | ({metric: best["metrics"][metric]} if best["metrics"] else {}),
            "final": final,
            "num_workers": self.place.num_workers,
            "global_batch_size": self.config.data.global_batch_size,
            "epochs": self.position.epoch,
            "steps": self.position.step,
            "stopped_early": self.position.stopped,
            "examples_per_s": self.folder.metrics()[-1]["examples_per_s"],
            "wall_s": round(wall_s, 3),
            "prefix_cache": self.prefix.summary(),
            "package": self.package.uri,
            "calibration": last.calibration,
            "timing_s": self.watch.seconds(),
            "notices": self.notices if wide is None else [*self.notices, wide],
            "chosen": self.folder.choices(),
        }

    def _evaluate_finally(self) -> FinalEvaluation | None:
        return evaluate_finally(
            self.task,
            self.dataset,
            self.batches.evaluation,
            self.folder.storage,
            rank=self.place.rank,
            alive=self.place.alive,
        )

    def _write_package(self, where: Storage, metrics: dict[str, float], calibration: dict[str, Any]) -> None:
        # The best epoch may lie in an earlier phase; what stayed fixed to the end was fixed there too.
        network = self.network.in_last_phase()
        sizes = {split: size for split in ("train", "validation", "test") if (size := self.dataset.size(split))}
        golden_split = next(split for split in ("validation", "test", "train") if split in sizes)
        with tempfile.TemporaryDirectory(prefix="rayft-package-") as scratch:
            local = Path(scratch) / "package"
            write_package(
                local,
                model=portable(network.model),
                config=self.config,
                labels=self.dataset.labels,
                multi_label=self.dataset.multi_label,
                image_size=network.image_size,
                licence=network.licence,
                metrics=metrics,
                dataset_fingerprint=self.dataset.fingerprint,
                blocks_frozen=[block.name for block in network.blocks[: network.frozen_depth]],
                blocks=describe_blocks(network),
                calibration=calibration,
                golden=self._golden(network, golden_split, calibration["temperature"]),
                golden_split=golden_split,
                examples=sizes,
                boundary=network.boundary_name,
            )
            where.delete()
            where.upload_folder(local)

    def _golden(self, network: Network, split: str, temperature: float) -> Golden:
        """Answer a few examples as ``evaluate`` does."""
        rows = self.dataset.split(split)["row"].to_numpy()
        inputs = self.dataset.reader.read(rows[choose_rows(len(rows))])
        images = [
            decode_picture(tf.constant(encoded), network.image_size, self.config.data.channels) for encoded in inputs
        ]
        # The task's own may begin behind the prefix cache.
        several = self.dataset.multi_label
        logits = answer_views(Forward(network), tf.stack(images), tta_record(self.config), multi_label=several).numpy()
        probabilities = as_probabilities(logits, temperature, multi_label=several)
        return Golden(tuple(inputs), probabilities)


class _Chief:
    """What rank 0 does besides: journal, checkpoints, and telling the observer."""

    def __init__(self, session: _Session, observer: Observer) -> None:
        self._session = session
        self._observer = observer
        # Of the steps that come next; the position's may have dropped at the end of an epoch.
        self._plateau_factor = session.position.waiting.plateau_factor
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
                "metrics": metrics,
                "examples_per_s": self._journal.examples_per_s,
                "left_s": (plan.total_steps - position.step) / rate if rate else None,
                "done_epochs": position.epoch,
                "notices": [*self._session.prefix.notices, *self._notices],
            }
        )
