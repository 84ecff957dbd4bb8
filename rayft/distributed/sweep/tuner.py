"""Ray Tune's searcher, scheduler and callback, which pass everything to the conductor."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from rayft.config import RunConfig
from rayft.distributed.sweep.prepare import Preparation
from rayft.distributed.sweep.reap import reap_placement_groups
from rayft.distributed.sweep.schedulers import make_scheduler
from rayft.distributed.sweep.trial import TrialActor, TrialContext
from rayft.errors import RunFailed
from rayft.sweep.choose import sweep_metric
from rayft.sweep.conductor import Conductor
from rayft.sweep.plan import TrialPlan
from rayft.sweep.space import Space

TUNE_SETTINGS = {
    # The sweep keeps its own record, and reports a trial that has no metric yet.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "90",
    "RAY_AIR_NEW_OUTPUT": "0",
}

_PREPARE = "prepare"
# A process that dies while it prepares is replaced so often, where trials are repeated less often.
_PREPARE_RETRIES = 2
# How long a process waits for the others to prepare; on a cluster that is busy they may wait for its place.
_HOLD_S = 60.0


def run_tuner(
    config: RunConfig,
    space: Space,
    preparation: Preparation,
    conductor: Conductor,
    context: TrialContext,
    plan: TrialPlan,
    done: threading.Event,
) -> None:
    """Run everything that the conductor hands out; sets ``done`` at the end, whatever happened."""
    os.environ.update(tune_settings(plan.slots))
    # It complains of files that its own loggers, which are off, would write.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    scratch = context.folder.run.scratch
    actor = tune.with_resources(
        tune.with_parameters(TrialActor, context=context), tune.PlacementGroupFactory([plan.resources])
    )
    tuner = tune.Tuner(
        actor,
        tune_config=tune.TuneConfig(
            search_alg=_Search(preparation, conductor),
            scheduler=_SearchOnly(
                make_scheduler(config, space, conductor, plan.slots), conductor, sweep_metric(config)
            ),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=scratch.root,
            storage_filesystem=None if scratch.is_local else scratch.filesystem,
            # The trials' own checkpoints lie in the sweep's folder.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=config.sweep.retries),
            callbacks=[_Notes(preparation, conductor)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        reap_placement_groups()
        done.set()


def tune_settings(slots: int) -> dict[str, str]:
    """Return Ray Tune's settings, which are environment variables, for so many trials at once."""
    # With a searcher of one's own, Ray Tune else starts one process after the other.
    return {**TUNE_SETTINGS, "TUNE_MAX_PENDING_TRIALS_PG": str(slots)}


class _OfThisProcess:
    """Ray Tune pickles its parts, to restore them; ours live in this process alone, on the list of trials."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class _Closed(Exception):
    """Ends Ray Tune before its trials have ended."""


class _Search(_OfThisProcess, Searcher):
    """Asks the conductor for the next trial, once the preparation is done."""

    def __init__(self, preparation: Preparation, conductor: Conductor) -> None:
        super().__init__()
        self._preparation, self._conductor = preparation, conductor

    def suggest(self, trial_id: str) -> Any:
        if not self._preparation.is_done:
            self._conductor.start_clock()
            task = self._preparation.next()
            return task and {"trial": {"id": f"prepare-{task['share'][0]}", "role": _PREPARE}, "prepare": task}
        trial = self._conductor.next()
        if trial == "end":
            return Searcher.FINISHED
        if isinstance(trial, str):
            return None
        config: dict[str, Any] = {"trial": trial.as_dict(), "params": dict(trial.params)}
        if trial.role == "winner":
            config["winner"] = self._conductor.winner_folder(trial)
            config["latencies"] = {
                name: settings.model_dump(mode="json") for name, settings in self._conductor.architectures().items()
            }
        return config

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The callback tells the conductor."""

    def save(self, checkpoint_path: str) -> None:
        """The list of trials holds all state; Ray Tune wants a file."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """The list of trials holds all state."""


class _SearchOnly(_OfThisProcess, FIFOScheduler):
    """Lets a scheduler stop trials of the search, never a repeat or the winner."""

    def __init__(self, inner: TrialScheduler, conductor: Conductor, metric: str) -> None:
        super().__init__()
        self._inner, self._conductor, self._metric_name = inner, conductor, metric
        self._held: list[Any] = []
        self._held_since: float | None = None
        if isinstance(inner, AsyncHyperBandScheduler):
            _replay(inner, conductor, metric)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if _is_search(trial):
            self._inner.on_trial_add(tune_controller, trial)
        elif _is_preparation(trial):
            trial.max_failures = max(_PREPARE_RETRIES, trial.max_failures)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if _is_search(trial):
            self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        if result.get("done"):
            return TrialScheduler.STOP
        if "prepared" in result:
            # Its process waits: Ray Tune would give it the share of one that is about to start, and end that one.
            self._held.append(trial)
            self._held_since = self._held_since or time.monotonic()
            return TrialScheduler.NOOP
        if not _is_search(trial) or self._metric_name not in result:
            return TrialScheduler.CONTINUE
        if self._conductor.out_of_time():
            return TrialScheduler.STOP
        decision = self._inner.on_trial_result(tune_controller, trial, result)
        if decision == TrialScheduler.STOP and trial.config["trial"]["baseline"]:
            return TrialScheduler.CONTINUE
        if decision == TrialScheduler.PAUSE:
            self._conductor.paused(_name(trial))
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict) -> None:
        if _is_search(trial):
            self._inner.on_trial_complete(tune_controller, trial, result)
        elif _is_preparation(trial):
            # Ray Tune ends all processes but one for which no trial is waiting. The first trials come a moment later.
            tune_controller._actor_cache.increase_max(trial.placement_group_factory)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        if _is_search(trial):
            self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._release(tune_controller)
        for trial in tune_controller.get_trials():
            if trial.status == "PENDING" and not _is_search(trial):
                return trial
        return self._inner.choose_trial_to_run(tune_controller)

    def _release(self, tune_controller: Any) -> None:
        """End the shares whose processes wait, once all are there or it takes too long."""
        if not self._held or self._held_since is None:
            return
        is_all = len(self._held) == self._held[0].config["prepare"]["share"][1]
        if is_all or time.monotonic() - self._held_since > _HOLD_S:
            for trial in self._held:
                tune_controller.stop_trial(trial)
            self._held.clear()


class _Notes(_OfThisProcess, tune.Callback):
    """Tells the conductor what happens."""

    def __init__(self, preparation: Preparation, conductor: Conductor) -> None:
        self._preparation, self._conductor = preparation, conductor

    def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
        if self._conductor.is_closed:
            raise _Closed

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if not _is_preparation(trial):
            self._conductor.started(_name(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if "fatal" in result:
            self._conductor.give_up(result["fatal"])
        if "share_done" in result:
            self._preparation.progressed(trial.config["prepare"]["share"][0], result["share_done"])
        if "prepared" in result:
            self._preparation.answered(trial.config["prepare"]["share"][0], result["prepared"])
        if "report" in result:
            self._conductor.reported(_name(trial), result["report"], dict(trial.config["params"]))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if not _is_preparation(trial):
            self._conductor.completed(_name(trial))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if not _is_preparation(trial):
            self._conductor.recovered(_name(trial), _why(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if _is_preparation(trial):
            why = f"The preparation of the trials failed. {_why(trial)}"
            self._conductor.give_up(RunFailed(why, "Run the same command again to go on."))
        else:
            self._conductor.failed(_name(trial), _why(trial))


def _replay(scheduler: AsyncHyperBandScheduler, conductor: Conductor, metric: str) -> None:
    """Show a new scheduler the epochs of earlier trials, so that it measures later ones by them."""
    for trial in conductor.trials.values():
        if trial.role != "search" or not trial.curve:
            continue
        stand_in: Any = SimpleNamespace(trial_id=trial.id, config={"trial": {"index": trial.index}})
        scheduler.on_trial_add(None, stand_in)
        for line in trial.curve:
            scheduler.on_trial_result(None, stand_in, {"epoch": line["epoch"], metric: line[metric]})


def _name(trial: Any) -> str:
    return trial.config["trial"]["id"]


def _is_search(trial: Any) -> bool:
    return trial.config["trial"]["role"] == "search"


def _is_preparation(trial: Any) -> bool:
    return trial.config["trial"]["role"] == _PREPARE


def _why(trial: Any) -> str:
    """Say in one line why Ray Tune lost a trial's process."""
    try:
        text = Path(trial.error_file).read_text()
    except OSError as error:
        return f"Ray Tune gave no reason ({error.strerror})."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any("actor died" in line.lower() for line in lines):
        return "The trial's process died (killed, or out of memory)."
    return lines[-1]
