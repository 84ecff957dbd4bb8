"""What a trial's process does: train by the one loop, and report epoch by epoch to Ray Tune."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from rayft.config import RunConfig
from rayft.data.dataset import Dataset, join_validation
from rayft.distributed.devices import plan_devices, set_up_tensorflow
from rayft.distributed.export import RaySink
from rayft.distributed.group import run_group
from rayft.distributed.sweep.attempt import Attempt, Stopped
from rayft.distributed.sweep.prepare import Prepared, prepare
from rayft.distributed.worker import describe_error, enter_driver_folder, run_worker, watchdog
from rayft.errors import RayftError, RunFailed, StorageError
from rayft.observe.log import RunLog
from rayft.observe.watch import watched
from rayft.runs import RunFolder
from rayft.storage import Storage
from rayft.sweep.choose import sweep_metric
from rayft.sweep.record import SweepFolder, Trial
from rayft.sweep.space import trial_config

# Workers stop at the next pause of their loop, a second or two away; the group then winds down.
_STOP_S = 60.0
# Names the trial that a copy for Ray Tune was made from.
_OWNER = "trial"


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a sweep share.

    Attributes:
        config: The sweep's config, dumped.
        dataset: Train and validation examples; no trial is ever given others.
        winner_dataset: All examples, fetched for the winner alone.
        folder: The sweep's folder.
        kind: light or distributed.
        driver: driver_folder and driver_path.
    """

    config: dict[str, Any]
    dataset: Dataset
    winner_dataset: ray.ObjectRef
    folder: SweepFolder
    kind: str
    driver: dict[str, Any]

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset, everything: Dataset, folder: SweepFolder, kind: str) -> Any:
        """Build the context on the driver."""
        driver = {"driver_folder": os.getcwd(), "driver_path": list(sys.path)}
        return cls(config.model_dump(mode="json"), dataset, ray.put(everything), folder, kind, driver)


class TrialActor(tune.Trainable):
    """Ray Tune's side of a trial; its process is used again for the next one.

    Its first task may be a share of the preparation. Of a trial, a step is an epoch. An attempt that raises is repeated
    here, in the same process, from the trial's own last checkpoint; only a process that dies is Ray Tune's to replace.
    """

    def setup(self, config: dict[str, Any], context: TrialContext) -> None:
        """Prepare the process, once, and begin its first trial."""
        self._context = context
        enter_driver_folder(context.driver)
        if context.kind == "light":
            set_up_tensorflow(plan_devices(RunConfig.model_validate(context.config).cluster))
            self._empty_workshop()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch; returns the trial's state after it."""
        while True:
            told = self._attempt.next_told()
            if self._prepares:
                return self._answer() if told is None else {"share_done": told}
            if self._attempt.error is None:
                return self._report(finished=told is None)
            self._failures += 1
            error = self._attempt.error
            if self._failures > self._config.sweep.retries:
                text = str(error.args[0]) if isinstance(error, RayftError) else describe_error(error, "The trial")
                report = self._report(finished=False, error=text)
                # A full disk is no fault of the trial's; the next one would meet it too.
                return {**report, "fatal": error} if isinstance(error, StorageError) else report
            self._end()
            self._begin_attempt()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy what the trial has learnt to where Ray Tune keeps that of paused and copied trials."""
        folder: RunFolder = self._output["folder"]
        copy = RunFolder(Storage.open(checkpoint_dir))
        # All of them: the best epoch need not be the newest.
        folder.checkpoints.download_folder(copy.checkpoints.root)
        copy.write_metrics(folder.metrics())
        (copy.storage / _OWNER).write_bytes(self._trial.id.encode())

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on after a pause or, with PBT, from where another trial stands: with its curve and best epoch."""
        self._end()
        folder, copy = self._output["folder"], RunFolder(Storage.open(checkpoint))
        if (copy.storage / _OWNER).read_bytes().decode() != self._trial.id:
            folder.checkpoints.delete()
            folder.checkpoints.upload_folder(copy.checkpoints.root)
            folder.write_metrics(copy.metrics())
        self._begin_attempt()

    def cleanup(self) -> None:
        """End what runs, so that its resources are free when Ray Tune counts them as free."""
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        base, dataset = RunConfig.model_validate(self._context.config), self._context.dataset
        self._prepares = "prepare" in config
        if self._prepares:

            def prepare_here(attempt: Attempt) -> Prepared:
                def tell(done: float) -> None:
                    if attempt.stop_requested.is_set():
                        raise Stopped
                    attempt.tell(done)

                return prepare(base, dataset, self._build, tell=tell, **config["prepare"])

            self._attempt = Attempt(prepare_here, lockstep=False)
            return
        self._trial = trial = Trial(**config["trial"])
        # PBT changes the values in Ray Tune's config, not in the trial that was handed out.
        tree = trial_config(base, config["params"], seed=trial.seed).model_dump()
        tree["train"]["metric"] = sweep_metric(base)
        if trial.role != "winner":
            tree["name"] = f"{base.name[:80]}-{trial.id}"
        if self._context.kind == "light":
            tree["cluster"]["workers"] = 1
        self._config = RunConfig.model_validate(tree)
        self._latencies = config.get("latencies", {})
        self._failures = trial.failures
        self._output = self._choose_output(config)
        self._output["folder"].storage.make_folder()
        self._begin_attempt()

    def _choose_output(self, config: dict[str, Any]) -> dict[str, Any]:
        """Say where the trial writes; the winner's folder is mostly that of the trial that won."""
        folder = self._context.folder
        if self._trial.role != "winner":
            return {"folder": folder.trial(self._trial.id), "package": None}
        return {"folder": folder.trial(config["winner"]), "package": folder.run.package}

    def _begin_attempt(self) -> None:
        light = self._context.kind == "light"
        self._attempt = Attempt(self._train_here if light else self._train_in_group, lockstep=light)

    def _answer(self) -> dict[str, Any]:
        """Report a share of the preparation; there is no second try, since the next trial would fail as well."""
        error = self._attempt.error
        if error is None:
            return {"prepared": self._attempt.result}
        if not isinstance(error, RayftError):
            error = RunFailed(describe_error(error, "The preparation"), "Mend that line, then run the command again.")
        return {"fatal": error, "done": True}

    def _end(self) -> None:
        ended = self._attempt.stop(_STOP_S)
        if self._context.kind == "light":
            # What a failed attempt leaves is in an unknown state; what one that goes on leaves is in use.
            is_lost = not ended or self._attempt.error is not None
            if is_lost:
                self._empty_workshop()
            self._workshop.tidy(always=is_lost)

    def _build(self, config: RunConfig, num_classes: int) -> Any:
        """Build a network that the trials of this process use again."""
        import tensorflow as tf

        return self._workshop.network(config, num_classes, tf.distribute.get_strategy())

    def _empty_workshop(self) -> None:
        from rayft.learn.workshop import Workshop

        self._workshop = Workshop()

    @property
    def _dataset(self) -> Dataset:
        if self._trial.role != "winner":
            return self._context.dataset
        everything = ray.get(self._context.winner_dataset)
        return join_validation(everything) if self._config.sweep.refit else everything

    def _train_here(self, attempt: Attempt) -> dict[str, Any]:
        import tensorflow as tf

        from rayft.learn.place import Place
        from rayft.learn.session import Output, run_session

        told, log = 0, self._log()
        sink = RaySink(log.write, run=self._context.config["name"], trial=self._trial.id, rank=0)
        sink.event("worker_started", host=socket.gethostname(), pid=os.getpid(), workers=1)
        with contextlib.closing(log), watchdog(self._config, self._output["folder"], 0) as alive:

            def observe(state: dict[str, Any]) -> bool:
                nonlocal told
                if state.get("done_epochs", 0) > told:
                    told = state["done_epochs"]
                    # Waiting for a decision is no stall.
                    faulthandler.cancel_dump_traceback_later()
                    attempt.tell(told)
                    alive()
                return False

            place = Place(0, 1, lambda value: value, alive, sink=sink)
            result = run_session(
                self._config,
                self._dataset,
                place,
                observe,
                tf.distribute.get_strategy(),
                output=Output(**self._output),
                workshop=self._workshop,
            )
        return {"summary": result, "latencies": self._measure_latencies()}

    def _train_in_group(self, attempt: Attempt) -> dict[str, Any]:
        told = 0

        def observe(state: dict[str, Any]) -> None:
            nonlocal told
            if state.get("done_epochs", 0) > told:
                told = state["done_epochs"]
                attempt.tell(told)

        who = {"run": self._context.config["name"], "trial": self._trial.id}
        payload = {"config": self._config.model_dump(), "dataset": self._dataset, "output": self._output, **who}
        scratch = self._context.folder.run.scratch / self._trial.id
        with contextlib.closing(self._log()) as log:
            told_of = watched(RaySink(log.write, **who), observe)
            result = run_group(
                run_worker,
                payload,
                self._config.cluster,
                scratch,
                told_of,
                stop=attempt.stop_requested,
                on_event=log.write,
            )
        if self._latencies:
            set_up_tensorflow(plan_devices(self._config.cluster))
        return {"summary": result, "latencies": self._measure_latencies()}

    def _log(self) -> RunLog:
        log = RunLog(lambda line: None)
        log.begin(self._output["folder"].storage if self._config.track.log else None)
        return log

    def _measure_latencies(self) -> dict[str, float]:
        if not self._latencies:
            return {}
        from rayft.learn.latency import measure_latency

        classes = len(self._dataset.labels)
        return {
            name: round(measure_latency(RunConfig.model_validate(tree), classes), 3)
            for name, tree in self._latencies.items()
        }

    def _report(self, *, finished: bool, error: str | None = None) -> dict[str, Any]:
        metric = self._config.train.metric
        folder: RunFolder = self._output["folder"]
        curve = [line for line in folder.metrics() if metric in line]
        result = self._attempt.result or {}
        rate = curve[-1]["examples_per_s"] if curve else 0.0
        report = {
            "curve": curve,
            "epochs": self._config.train.epochs,
            "train_s": round(self._dataset.size("train") / rate * len(curve), 3) if rate else 0.0,
            "failures": self._failures,
            "finished": finished and error is None,
            "error": error,
            "summary": result.get("summary") if self._trial.role == "winner" else None,
            "latencies": result.get("latencies"),
        }
        known = {metric: curve[-1][metric], "epoch": curve[-1]["epoch"]} if curve else {}
        return {**known, "report": report, "done": finished or error is not None}
