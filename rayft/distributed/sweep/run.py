"""A whole sweep, from config to the best trial's package, as the driver sees it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from rayft.config import RunConfig
from rayft.data.dataset import Dataset, without_test
from rayft.distributed.cluster import connect, has_ended, metrics_address
from rayft.distributed.export import RaySink
from rayft.distributed.run import prepare_dataset
from rayft.distributed.sweep.interrupt import interruptible
from rayft.distributed.sweep.prepare import Preparation, read_blocks
from rayft.distributed.sweep.reap import reap_placement_groups
from rayft.distributed.sweep.trial import TrialContext
from rayft.distributed.sweep.tuner import run_tuner
from rayft.driver import claimed, require_free
from rayft.errors import DataError, RayftError, RunFailed, RunInterrupted, StorageError
from rayft.observe.caches import tell_of_caches
from rayft.observe.log import RunLog
from rayft.observe.sink import OnLine, Sink
from rayft.registry.result import register_run
from rayft.report.sweep import write_sweep_report
from rayft.runs import RunFolder
from rayft.sweep.choose import mode_of, sweep_metric
from rayft.sweep.conductor import Conductor
from rayft.sweep.outcome import summarise, tidy_up
from rayft.sweep.plan import TrialPlan, plan_trials
from rayft.sweep.record import SweepFolder, Trial
from rayft.sweep.search import first_values, get_suggest
from rayft.sweep.space import DEPTH, Space, check_space, default_space
from rayft.sweep.watch import SweepWatch

POLL_S = 0.3
REAP_EVERY_S = 2.0
# Ray Tune gives a process that is busy 10 s to end by itself.
TUNE_END_S = 20.0


@dataclass(frozen=True)
class Standing:
    """How a sweep stands, for whoever watches it.

    Attributes:
        phase: What happens now.
        plan: How trials are laid over the cluster, once that is known.
        conductor: Knows the trials, once they begin.
        share: How much of the phase is done, 0 to 1, where that is known.
    """

    phase: str
    plan: TrialPlan | None = None
    conductor: Conductor | None = None
    share: float | None = None


OnStanding = Callable[[Standing], None]


def sweep(
    config: RunConfig,
    *,
    more_trials: int = 0,
    fresh: bool = False,
    on_standing: OnStanding = lambda standing: None,
    on_event: OnLine = lambda line: None,
) -> dict[str, Any]:
    """Search as ``config.sweep`` says, and package the best trial; resumes an unfinished sweep of the same name.

    Args:
        config: The sweep.
        more_trials: Extend a finished sweep by so many trials; an unfinished one goes on to its end first.
        fresh: Start anew, and delete what an earlier sweep of this name left.
        on_standing: Called several times a second.
        on_event: Called with each line of the sweep's log, whether a file keeps it or not.

    Returns:
        The content of ``result.json``; ``status`` is ``finished``.

    Raises:
        RayftError: Config, data, storage or cluster are not fit for the sweep, before any trial started.
        RunFailed: No trial finished, or the best one could not be packaged.
        RunInterrupted: A signal ended the sweep; the same command goes on.
    """
    started = time.perf_counter()
    folder = SweepFolder(RunFolder.of(config))
    folder.storage.check_writable()
    require_free(folder.storage)
    config = config if fresh else _settle_trials(config, folder, more_trials)
    check_space(config, config.sweep.space)
    if not fresh and (before := folder.run.result()) and before["status"] == "finished":
        stored = folder.run.stored_config()
        if stored is not None and stored.sweep == config.sweep:
            return {**register_run(folder.run, config, before), "already_finished": True}
    everything = prepare_dataset(config, lambda state: on_standing(Standing(state["phase"])))
    if everything.size("validation") == 0:
        raise DataError(
            "The data has no validation split, by which trials are compared.",
            "Set data.validation_fraction, or give examples the split validation.",
        )
    on_standing(Standing("starting Ray"))
    earlier = None if fresh else _Earlier.of(folder)
    log = RunLog(on_event)
    begun = False
    with contextlib.ExitStack() as claim:

        def begin() -> None:
            nonlocal begun
            require_free(folder.storage)
            folder.run.begin(config, fresh=fresh)
            if before := folder.run.result():
                # A kill in the middle of an extension must not leave it looking finished.
                folder.run.write_result({**before, "status": "running"})
            claim.enter_context(claimed(folder.storage))
            begun = True
            log.begin(folder.storage if config.track.log else None)
            sink.event(
                "sweep_started", folder=folder.storage.uri, trials=config.sweep.trials, metrics=metrics_address()
            )

        try:
            # Ray takes SIGTERM for itself when it starts.
            with connect(config.cluster, config.track.metrics_port), interruptible() as check:
                sink = RaySink(log.write, run=config.name)
                watch = SweepWatch(config, sink, log.write)
                result, space = _search(config, everything, folder, watch.observe(on_standing), begin, check, sink)
        except RayftError as error:
            # A renewed claim would bring back a folder that is removed.
            claim.close()
            if begun:
                with contextlib.suppress(StorageError):  # Such as the one that ended the sweep.
                    _leave(folder, config, error, time.perf_counter() - started, log, earlier)
            raise
        result["wall_s"] = round(time.perf_counter() - started, 3)
        folder.run.write_result(result)
        write_sweep_report(folder, config, space)
        tidy_up(folder, config)
        log.end(config.name, result)
        return register_run(folder.run, config, result)


def _search(
    config: RunConfig,
    everything: Dataset,
    folder: SweepFolder,
    on_standing: OnStanding,
    begin: Callable[[], None],
    check: Callable[[], None],
    sink: Sink,
) -> tuple[dict[str, Any], Space]:
    plan = plan_trials(config, _nodes(), train_size=everything.size("train"))
    space = config.sweep.space
    if not space:
        on_standing(Standing("reading the backbone", plan))
        space = default_space(read_blocks(config, check))
        check_space(config, space)
    suggest = get_suggest(config.sweep.searcher, space, seed=config.seed, mode=mode_of(sweep_metric(config)))
    begin()
    preparation = Preparation(config, space, plan)
    # A cache that one trial alone computes is not that of the winner's test.
    dataset = without_test(everything, keep_pictures=preparation.is_shared)

    def tell_of_preparation() -> None:
        phase = "computing the frozen prefix" if preparation.is_shared else "starting the trials"
        on_standing(Standing(phase, plan, share=preparation.share_done))

    if plan.kind == "distributed":

        def check_and_tell() -> None:
            tell_of_preparation()
            check()

        preparation.run_as_tasks(dataset, check_and_tell)
    first = first_values(config, space)
    conductor = Conductor(config, space, folder, suggest, kind=plan.kind, slots=plan.slots, first=first)
    context = TrialContext.of(config, dataset, everything, folder, plan.kind)
    told = False

    def standing() -> None:
        """Tell how the sweep stands; what came of the preparation once."""
        nonlocal told
        if preparation.is_done and not told:
            for line in preparation.lines():
                on_standing(Standing(line, plan))
            _tell_of_prefix(sink, preparation.ensured)
            told = True
        if told:
            on_standing(Standing("searching", plan, conductor))
        else:
            tell_of_preparation()

    def run(done: threading.Event) -> None:
        run_tuner(config, space, preparation, conductor, context, plan, done)

    _run_watched(run, conductor, standing, check)
    standing()
    on_standing(Standing("done", plan, conductor))
    result = summarise(config, space, conductor.trials)
    depth = result["best_params"].get(DEPTH, config.freeze.depth)
    for each in preparation.ensured:
        # The winner found it there; what it took to compute is the sweep's.
        if each["depth"] == depth and not result["refit"]:
            result["prefix_cache"] = {name: each[name] for name in ("used", "reason", "build_s", "bytes")}
    return result, space


def _tell_of_prefix(sink: Sink, built: list[dict[str, Any]]) -> None:
    """Tell of the caches that all trials share; one of several depths is one cache."""
    used = {tuple(each["keys"]): each for each in built if each["used"]}.values()
    if used:
        missing = sum(each["missing"] for each in used)
        found = sum(len(each["keys"]) for each in used) - missing
        tell_of_caches(sink, found, missing, sum(each["bytes"] for each in used), max(each["build_s"] for each in used))


def _run_watched(
    tune: Callable[[threading.Event], None],
    conductor: Conductor,
    standing: Callable[[], None],
    check: Callable[[], None],
) -> None:
    """Run Ray Tune in a thread, and tell how the sweep stands meanwhile."""
    done = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            tune(done)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="ray-tune", daemon=True)
    try:
        thread.start()
        reaped_at = time.monotonic()
        while not done.wait(POLL_S):
            standing()
            check()
            if conductor.failure is not None:
                break
            if time.monotonic() - reaped_at > REAP_EVERY_S:
                # The controller of a dead trial's workers dies a moment after it.
                reap_placement_groups()
                reaped_at = time.monotonic()
    except RunInterrupted:
        # What Ray's end does to the trials is not theirs.
        conductor.close()
        _wait_for_end(thread)
        raise
    if conductor.failure is not None:
        _wait_for_end(thread)
        # Ray Tune would wrap it, or take it for a trial's.
        raise conductor.failure
    if failures:
        if isinstance(failures[0], RayftError):
            raise failures[0]
        raise RunFailed(
            f"Ray Tune ended with {type(failures[0]).__name__}: {failures[0]}", "Run the same command again to go on."
        ) from failures[0]


def _wait_for_end(thread: threading.Thread) -> None:
    """Let Ray Tune notice that the conductor is closed: Ray ends a process that asks it for something after its end."""
    end = time.monotonic() + TUNE_END_S
    while thread.is_alive() and not has_ended() and time.monotonic() < end:
        thread.join(POLL_S)


def _settle_trials(config: RunConfig, folder: SweepFolder, more: int) -> RunConfig:
    """Say how many trials there shall be in all.

    Raises:
        ConfigError: Another config ran under this name.
        StorageError: The folder holds a run that is no sweep.
    """
    status = folder.run.status(config)
    known = folder.trials()
    if status != "new" and not known and (folder.run.checkpoints.exists() or status == "finished"):
        raise StorageError(
            f"{folder.storage.uri} holds a run of `rayft train`, no sweep.", "Give the sweep another name."
        )
    searched = sum(trial.role == "search" for trial in known.values())
    stored = folder.run.stored_config()
    if more and status == "unfinished" and stored is not None:
        # The same command again, after the extension was broken off.
        target = stored.sweep.trials
    else:
        target = searched + more if more else max(config.sweep.trials, searched)
    return config.model_copy(update={"sweep": config.sweep.model_copy(update={"trials": target})})


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass(frozen=True)
class _Earlier:
    """What an earlier sweep of the name left."""

    config: RunConfig
    result: dict[str, Any] | None
    trials: dict[str, Trial]

    @classmethod
    def of(cls, folder: SweepFolder) -> _Earlier | None:
        config, trials = folder.run.stored_config(), folder.trials()
        return cls(config, folder.run.result(), trials) if config is not None and trials else None


def _leave(
    folder: SweepFolder, config: RunConfig, error: RayftError, wall_s: float, log: RunLog, earlier: _Earlier | None
) -> None:
    """Say in the folder how the sweep ended; where it did nothing yet, leave the folder as it was."""
    if error.exit_code == 2 and not (folder.storage / "trials.jsonl").exists():
        folder.run.withdraw()
        return
    if error.exit_code == 2 and earlier is not None and folder.trials() == earlier.trials:
        folder.run.begin(earlier.config, fresh=False)
        if earlier.result is not None:
            folder.run.write_result(earlier.result)
        folder.run.tidy()
        return
    status = "interrupted" if error.exit_code == 130 else "failed"
    left = {"name": config.name, "status": status, "error": str(error), "wall_s": round(wall_s, 3)}
    log.end(config.name, left)
    folder.run.write_result(left)
    folder.run.tidy()
