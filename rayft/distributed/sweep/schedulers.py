"""Schedulers of Ray Tune, fitted to trials that the conductor hands out one by one."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from rayft.config import Dimension, RunConfig
from rayft.sweep.choose import mode_of, sweep_metric
from rayft.sweep.conductor import Conductor
from rayft.sweep.space import Params, Space

REDUCTION = 3


def make_scheduler(config: RunConfig, space: Space, conductor: Conductor, slots: int) -> TrialScheduler:
    """Build the scheduler that stops poor trials of the search."""
    metric, epochs = sweep_metric(config), config.train.epochs
    common: dict[str, Any] = {"time_attr": "epoch", "metric": metric, "mode": mode_of(metric)}
    grace = min(config.sweep.grace_epochs or -(-epochs // 10), epochs)
    halving = {"max_t": epochs, "grace_period": grace, "reduction_factor": REDUCTION, "stop_last_trials": False}
    if config.sweep.scheduler == "asha":
        return AsyncHyperBandScheduler(**halving, **common)
    if config.sweep.scheduler == "hyperband":
        return HyperBand(**halving, **common)
    if config.sweep.scheduler == "pbt":
        return Population(space, conductor, slots, epochs, perturbation_interval=grace, **common)
    return FIFOScheduler()


class HyperBand(AsyncHyperBandScheduler):
    """HyperBand without pauses: trials take turns in brackets that begin to stop them later and later.

    Ray's own HyperBandScheduler halves a bracket as soon as the trials in it that were started have come far
    enough. With fewer slots than a bracket has trials, that is one trial, which is then never stopped. Here each
    bracket is an ASHA, as in Li et al. 2020, arXiv:1810.05934, section 3.3.
    """

    def __init__(self, *, max_t: int, grace_period: int, reduction_factor: int, **options: Any) -> None:
        """Take the arguments of ASHA, the number of brackets left out."""
        self._order = bracket_order(max_t, grace_period, reduction_factor)
        super().__init__(
            max_t=max_t,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
            brackets=max(self._order) + 1,
            **options,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Give a trial the bracket of its place in the search, where Ray would draw one."""
        super().on_trial_add(tune_controller, trial)
        index = trial.config["trial"]["index"]
        self._trial_info[trial.trial_id] = self._brackets[self._order[index % len(self._order)]]


def bracket_order(max_t: int, grace_period: int, reduction_factor: int) -> list[int]:
    """Return the brackets of one round, a number for each trial; 0 begins to stop at ``grace_period``.

    As many trials to a bracket as in Li et al. 2018, arXiv:1603.06560, algorithm 1.
    """
    last, reach = 0, grace_period * reduction_factor
    while reach <= max_t:
        last, reach = last + 1, reach * reduction_factor
    counts = [math.ceil((last + 1) / (last - s + 1) * reduction_factor ** (last - s)) for s in range(last + 1)]
    return list(itertools.chain.from_iterable([s] * count for s, count in enumerate(counts)))


class Population(PopulationBasedTraining):
    """Population-based training of all trials of the search, in rounds, on however many slots there are.

    In a round every trial trains for an interval and is paused; then the poor ones take over weights and values
    of good ones. Ray's own rounds know only of trials that have started, and wait for ever for one that failed;
    without rounds it can set the same trial back again and again, while the others wait.
    """

    def __init__(self, space: Space, conductor: Conductor, slots: int, epochs: int, **options: Any) -> None:
        """Take the searched fields; options are those of Ray's scheduler."""
        mutations = {"params": {path: _as_tune_domain(dimension) for path, dimension in space.items()}}
        super().__init__(hyperparam_mutations=mutations, log_config=False, synch=True, **options)
        self._space, self._conductor, self._slots, self._epochs = space, conductor, slots, epochs

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial; Ray would refuse one that a searcher drew, as ours all are."""
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        """Pause a trial at the end of a round; nothing is left to change after the last epoch."""
        epoch, state = result["epoch"], self._trial_state[trial]
        if epoch >= self._epochs or epoch - state.last_perturbation_time < self._perturbation_interval:
            return TrialScheduler.CONTINUE
        self._save_trial_state(state, epoch, result, trial)
        return TrialScheduler.PAUSE

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Choose a trial of this round; with none left, end the round first."""
        trials = [trial for trial in self._trial_state if not trial.is_finished()]
        active = [trial for trial in trials if trial.status in (Trial.RUNNING, Trial.PENDING)]
        paused = [trial for trial in trials if trial.status == Trial.PAUSED]
        if self._conductor.out_of_time():
            for trial in paused:
                tune_controller.stop_trial(trial)
            return None
        if not active and not self._conductor.has_more() and not any(map(self._is_behind, paused)):
            self._end_round(tune_controller, paused)
        pending = [trial for trial in active if trial.status == Trial.PENDING]
        if pending or len(active) >= self._slots:
            return pending[0] if pending else None
        return next(filter(self._is_behind, paused), None)

    def _is_behind(self, trial: Any) -> bool:
        """Whether a paused trial may train on in this round."""
        state = self._trial_state[trial]
        return state.last_train_time == state.last_perturbation_time

    def _end_round(self, tune_controller: Any, paused: list[Any]) -> None:
        lower, upper = self._quantiles()
        # Good ones first: what others take over must be known.
        for trial in sorted(paused, key=lambda trial: (trial in lower, trial not in upper)):
            self._trial_state[trial].last_perturbation_time = self._trial_state[trial].last_train_time
            self._checkpoint_or_exploit(trial, tune_controller, upper, lower)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict, dict]:
        """Draw new values; Ray would clone the other trial's identity with them, and leave the space."""
        drawn, operations = super()._get_new_config(trial, trial_to_clone)
        return {**trial.config, "params": keep_within(self._space, drawn["params"])}, operations


def keep_within(space: Space, params: Params) -> Params:
    """Move numbers that a perturbation carried out of their dimension to its nearer end."""
    kept = dict(params)
    for path, dimension in space.items():
        ends = dimension.uniform or dimension.loguniform
        if ends:
            kept[path] = float(np.clip(params[path], *ends))
    return kept


def _as_tune_domain(dimension: Dimension) -> Any:
    if dimension.values is not None:
        return list(dimension.values)
    if dimension.loguniform:
        return tune.loguniform(*dimension.loguniform)
    return tune.uniform(*(dimension.uniform or (0.0, 1.0)))
