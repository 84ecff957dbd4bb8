"""One replica's part of a run: build, resume, train, evaluate, hand over the package."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from rayft.config import RunConfig, is_auto
from rayft.data.dataset import Dataset
from rayft.data.notices import accuracy_notice
from rayft.data.objective import make_objective
from rayft.data.order import steps_per_epoch
from rayft.data.undecodable import find_undecodable
from rayft.errors import DataError
from rayft.learn.batches import Batches
from rayft.learn.checkpoint import Checkpoints, Position
from rayft.learn.chief import Chief, Observer
from rayft.learn.digest import digest
from rayft.learn.distill import Teacher
from rayft.learn.final import FinalEvaluation, evaluate_finally
from rayft.learn.hand_over import package_network
from rayft.learn.loop import Plan
from rayft.learn.measures import tell_of_steps
from rayft.learn.phased import Phased
from rayft.learn.place import Place
from rayft.learn.remarks import start_notices
from rayft.learn.settle import settle_batch_size, settle_rate
from rayft.learn.state import state_variables
from rayft.learn.step import Task
from rayft.learn.trace import check_window, open_trace
from rayft.learn.training import Training
from rayft.learn.workshop import Workshop
from rayft.model.network import Network
from rayft.prefix.decide import Decision
from rayft.prefix.prepare import Prefix, prepare_prefix
from rayft.runs import BATCH_SIZE, RATE, RunFolder, with_choices
from rayft.storage import Storage
from rayft.timing import Stopwatch


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
    workshop: Workshop | None = None,
) -> dict[str, Any] | None:
    """Train this replica's share from the latest checkpoint to the package.

    Args:
        config: The run.
        dataset: Its examples.
        place: This process among the workers.
        observer: Called on the chief with the progress about once a second; true asks the run to stop.
        strategy: Spans the workers.
        output: Where checkpoints, metrics and package go; the config's own run folder if not given.
        workshop: What earlier sessions of this process left for this one, for a process that runs several.

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
        session = Session(config, dataset, place, strategy, observer, output, watch, workshop or Workshop(keeps=False))
    with contextlib.closing(session.prefix):
        with watch("building the network"):
            session.resume()
        with watch("training steps"):
            is_done = session.train(observer)
        return session.finish(time.perf_counter() - started) if is_done else None


class Session:
    """What a replica holds while it trains."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        place: Place,
        strategy: tf.distribute.Strategy,
        observer: Observer,
        output: Output,
        watch: Stopwatch,
        workshop: Workshop,
    ) -> None:
        self.watch = watch
        self.dataset, self.place = dataset, place
        self.folder, self.package = output.folder, output.package
        self.checkpoints = Checkpoints(self.folder.checkpoints, keep=config.train.keep_checkpoints)
        network = workshop.network(config, len(dataset.labels), strategy)
        place.alive()
        with watch("prefix cache"):
            self.prefix = self._prepare_prefix(config, network, observer, workshop)
            if place.is_chief:
                self.prefix.tell(place.sink)
        features = self.prefix.cached
        cached = features is not None
        bench = workshop.bench(config, dataset, features) if place.num_workers == 1 else None
        if bench:
            self.batches = bench.training.batches
        else:
            threads = max(1, int(config.cluster.cpus_per_worker))
            self.batches = Batches(dataset, config, network.image_size, place, threads, features)
        self.plan = Plan(self.batches.steps_per_epoch, config.train.epochs, 0, config.train.checkpoint_every_steps)
        check_window(config.train.profile, self.plan.total_steps)
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
        if bench:
            self.phased, self.training = bench.phased, bench.training
            bench.begin(config, place, lambda: watch("validation"))
        else:
            self.phased = Phased(config, network, self.plan, strategy, teacher, cached=cached, objective=objective)
            self.training = Training(config, self.phased, self.batches, place, self.plan, lambda: watch("validation"))
            if place.num_workers == 1:
                workshop.keep(config, dataset, self.phased, self.training, features)
        place.alive()
        place.require_same("pretrained weights", self.task.frozen_sha256)

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
        self.place.sink.event("training", step=self.position.step, steps=self.plan.total_steps)
        chief = Chief(self, observer) if self.place.is_chief else None
        trace = open_trace(self.config.train.profile, self.folder.tensorboard, self.place)
        try:
            for progress in self.training.run(lambda: chief is not None and chief.stop_requested, trace):
                self.place.alive()
                tell_of_steps(self.place.sink, progress)
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
        finally:
            trace.close()
        return self.training.is_done

    def _prepare_prefix(self, config: RunConfig, network: Network, observer: Observer, workshop: Workshop) -> Prefix:
        if len(network.phases) > 1 or config.train.distill is not None:
            reason = "several freeze depths" if len(network.phases) > 1 else "a teacher needs the pictures"
            return Prefix(Decision(False, reason), None, 0)
        latest = self.checkpoints.latest() if self.place.is_chief else None
        steps = steps_per_epoch(self.dataset.size("train"), config.data.global_batch_size) * config.train.epochs
        return prepare_prefix(
            config,
            self.dataset,
            network,
            workshop.boundary(config, self.dataset, network),
            self.folder,
            is_trained=latest is not None and (latest.stopped or latest.step == steps),
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
            network = self.network.in_last_phase()
            package_network(
                self.package, network, self.config, self.dataset, metrics=final, calibration=last.calibration
            )
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
