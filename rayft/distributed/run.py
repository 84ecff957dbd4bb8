"""One fine-tuning run, from config to package, as the driver sees it."""

from __future__ import annotations

import contextlib
import functools
import time
from typing import Any

import rayft
from rayft.config import RunConfig
from rayft.data.dataset import Dataset, open_cache, open_dataset, pictures_by_name
from rayft.data.objective import make_objective
from rayft.data.scan import check_pictures
from rayft.distributed.cluster import connect, metrics_address
from rayft.distributed.export import RaySink
from rayft.distributed.group import OnProgress, run_group
from rayft.distributed.worker import run_worker
from rayft.driver import claimed, require_free
from rayft.errors import DataError, RayftError
from rayft.observe.log import RunLog
from rayft.observe.sink import OnLine
from rayft.observe.watch import watched
from rayft.registry.result import register_run
from rayft.report.run import write_run_report
from rayft.runs import RunFolder, with_choices
from rayft.timing import Stopwatch
from rayft.tracking.events import Tracking, open_tracking

_GROUP = "starting and ending workers"


def train(
    config: RunConfig,
    *,
    fresh: bool = False,
    on_progress: OnProgress = lambda state: None,
    on_event: OnLine = lambda line: None,
) -> dict[str, Any]:
    """Fine-tune as ``config`` says, on its cluster; resumes an unfinished run of the same name.

    Args:
        config: The run.
        fresh: Start anew, and delete what an earlier run of this name left.
        on_progress: Called several times a second with the latest progress.
        on_event: Called with each line of the run's log, whether a file keeps it or not.

    Returns:
        The content of ``result.json``; ``status`` is ``finished``.

    Raises:
        RayftError: Config, data, storage or cluster are not fit for the run, before anything was written.
        RunFailed: The run began and did not finish; its checkpoints stay.
        RunInterrupted: A signal stopped the run at a checkpoint.
    """
    started, watch = time.perf_counter(), Stopwatch()
    folder = RunFolder.of(config)
    folder.storage.check_writable()
    require_free(folder.storage)
    if not fresh:
        config = with_choices(config, folder.choices())
        status = folder.status(config)
        if status == "finished":
            return {**register_run(folder, config, folder.result() or {}), "already_finished": True}
    with watch("reading the data"):
        dataset = prepare_dataset(config, on_progress)
    # A hook that cannot be imported is found before Ray starts.
    tracking = open_tracking(config, folder)
    log = RunLog(on_event)
    on_progress({"phase": "starting Ray"})
    with contextlib.ExitStack() as claim:
        begun = False
        try:
            with watch("starting and ending Ray"), connect(config.cluster, config.track.metrics_port):
                require_free(folder.storage)
                folder.begin(config, fresh=fresh)
                claim.enter_context(claimed(folder.storage))
                begun = True
                log.begin(folder.storage if config.track.log else None)
                tracking.begin(config)
                sink = RaySink(log.write, run=config.name)
                _tell_start(sink, config, folder)
                payload = {"config": config.model_dump(), "dataset": dataset}
                with watch(_GROUP):
                    result = run_group(
                        run_worker,
                        payload,
                        config.cluster,
                        folder.scratch,
                        watched(sink, tracking.observe(on_progress)),
                        on_event=log.write,
                    )
        except RayftError as error:
            # What is not this driver's is left as it was.
            if begun:
                # A renewed claim would bring back a folder that is removed.
                claim.close()
                left = _left(config, error, time.perf_counter() - started)
                tracking.end(left["status"], left)
                _leave(folder, error, left, log)
            raise
        timing = _merge(watch.seconds(), result["timing_s"])
        result = {**result, "wall_s": round(time.perf_counter() - started, 3), "timing_s": timing}
        result = _complete(config, folder, dataset, tracking, result, on_progress)
        log.end(config.name, result)
        return result


def _complete(
    config: RunConfig,
    folder: RunFolder,
    dataset: Dataset,
    tracking: Tracking,
    result: dict[str, Any],
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Write result and report of a run whose package is there, tell the trackers, register it."""
    folder.write_result(result)
    on_progress({"phase": "writing the report"})
    write_run_report(folder, config, functools.partial(pictures_by_name, dataset))
    tracking.end("finished", result)
    if tracking.notices:
        result = {**result, "notices": [*result.get("notices", []), *tracking.notices]}
        folder.write_result(result)
    folder.tidy()
    return register_run(folder, config, result)


def prepare_dataset(config: RunConfig, on_progress: OnProgress) -> Dataset:
    """Open and check the examples of a run, before any worker starts.

    Raises:
        DataError: The data cannot be read, or cannot be trained on.
        ConfigError: Settings do not suit the labels.
    """
    on_progress({"phase": "reading the data"})
    cache = open_cache(config.data)
    dataset = open_dataset(config)
    dataset = check_pictures(
        dataset,
        on_bad=config.data.on_bad,
        max_pixels=config.data.max_pixels,
        progress=lambda text: on_progress({"phase": text}),
        cache_folder=cache.folder,
    )
    make_objective(config, dataset)
    examples = dataset.size("train")
    if examples < config.cluster.workers:
        raise DataError(
            f"The training split has {examples} examples, cluster.workers is {config.cluster.workers}.",
            f"Set cluster.workers to {examples} or less.",
        )
    if not dataset.size("validation"):
        for name, needed in (
            ("train.early_stopping", config.train.early_stopping.patience is not None),
            ("optim.schedule plateau", config.optim.schedule == "plateau"),
        ):
            if needed:
                raise DataError(
                    f"{name} waits for the validation metric, and the data has no validation split.",
                    "Set data.validation_fraction above 0, or give examples the split validation.",
                )
    return dataset


def _tell_start(sink: RaySink, config: RunConfig, folder: RunFolder) -> None:
    sink.event(
        "run_started",
        folder=folder.storage.uri,
        resumed=folder.checkpoints.exists(),
        workers=config.cluster.workers,
        rayft=rayft.__version__,
        metrics=metrics_address(),
    )


def _merge(driver: dict[str, float], chief: dict[str, float]) -> dict[str, float]:
    """Put the chief's times into the driver's, in place of what it saw of them from outside."""
    starting = max(0.0, driver[_GROUP] - sum(chief.values()))
    return {
        name: seconds
        for key, value in driver.items()
        for name, seconds in ({key: round(starting, 3), **chief} if key == _GROUP else {key: value}).items()
    }


def _left(config: RunConfig, error: RayftError, wall_s: float) -> dict[str, Any]:
    status = "interrupted" if error.exit_code == 130 else "failed"
    return {"name": config.name, "status": status, "error": str(error), "wall_s": round(wall_s, 3)}


def _leave(folder: RunFolder, error: RayftError, result: dict[str, Any], log: RunLog) -> None:
    """Say in the folder how the run ended; remove it where nothing was done yet, or an earlier run can come back."""
    if (folder.storage / "config.yaml").exists():
        if not folder.checkpoints.exists() and (error.exit_code == 2 or folder.replaced.exists()):
            folder.withdraw()
            return
        log.end(result["name"], result)
        folder.write_result(result)
        folder.tidy()
