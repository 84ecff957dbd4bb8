"""What a finished sweep leaves: its result, and the folders of its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rayft.config import RunConfig
from rayft.errors import RunFailed
from rayft.sweep.choose import choose_winner, estimates, rank, sweep_metric
from rayft.sweep.record import SweepFolder, Trial, trial_id
from rayft.sweep.space import Space, trial_config


def summarise(config: RunConfig, space: Space, trials: Mapping[str, Trial]) -> dict[str, Any]:
    """Return the content of ``result.json``: that of the best trial's run, and what is the sweep's own.

    Raises:
        RunFailed: No trial has a metric, or the best one could not be packaged.
    """
    metric = sweep_metric(config)
    best, winner = choose_winner(trials.values(), metric), trials.get(trial_id(0, "winner"))
    if best is None:
        errors = dict.fromkeys(trial.error for trial in trials.values() if trial.error)
        raise RunFailed(
            f"None of {len(trials)} trials gave a {metric}. " + " ".join(str(error) for error in list(errors)[:3]),
            "Mend the cause, then start anew with --fresh.",
        )
    if winner is None or winner.state != "finished" or winner.summary is None:
        raise RunFailed(
            f"The best trial {best.id} could not be packaged: {winner.error if winner else 'it did not start'}",
            "Mend the cause and run the same command again.",
        )
    states = Counter(trial.state for trial in trials.values() if trial.role == "search")
    repeated = estimates(trials.values(), metric)
    return {
        **winner.summary,
        "name": config.name,
        "status": "finished",
        **_found(best, winner, metric),
        "restarts": sum(trial.failures for trial in trials.values()),
        "metric": metric,
        "trials": sum(states.values()),
        "trial_states": dict(sorted(states.items())),
        "best_trial": best.id,
        "best_params": dict(best.params),
        "best_config": trial_config(config, best.params, seed=best.seed).model_dump(mode="json"),
        "seeds": [asdict(each) for each in repeated],
        "searched": list(space),
    }


def _found(best: Trial, winner: Trial, metric: str) -> dict[str, Any]:
    """Say how good the best trial is."""
    if winner.refit and best.best is not None:
        # Trained anew, it was validated by nothing.
        found = {"epoch": best.best["epoch"], "step": best.best["step"], metric: best.metric(metric)}
        return {"best": found, "best_value": best.metric(metric), "refit": True}
    # A trial that was stopped early may have become better on its way to the end.
    return {"best_value": winner.metric(metric), "refit": False}


def tidy_up(folder: SweepFolder, config: RunConfig) -> None:
    """Remove what only a sweep in progress needs; checkpoints stay of the trials that may still win."""
    trials = folder.trials()
    kept = {trial.id for trial in rank(trials.values(), sweep_metric(config))[: config.sweep.finalists]}
    for trial in trials.values():
        if trial.role != "winner" and trial.id not in kept:
            folder.trial(trial.id).checkpoints.delete()
    folder.run.tidy()
