"""The next trial's values, a pure function of seed, index and the trials so far."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayft.config import Dimension, RunConfig
from rayft.config.problems import show_value
from rayft.errors import ConfigError
from rayft.imports import load_object
from rayft.sweep.space import Params, Space, active, draw, enumerate_grid, fits, own_values

Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Seen:
    """One earlier trial, as a searcher sees it.

    Attributes:
        params: Its values, by field.
        value: Its best metric so far; None while nothing is known, and where it failed.
    """

    params: Params
    value: float | None


Suggest = Callable[[int, Sequence[Seen]], Params | None]


def get_suggest(searcher: str, space: Space, *, seed: int, mode: Mode) -> Suggest:
    """Return ``suggest(index, history)``; it gives None when there is nothing left to try.

    No searcher keeps state of its own: whoever replays the same history gets the same answer, which makes a
    sweep resumable from its list of trials alone.

    Args:
        searcher: random, grid, optuna, or module:function called as ``function(space, seed, index, history)``.
        space: Searched fields.
        seed: The sweep's seed.
        mode: Whether a larger or a smaller metric is better.

    Raises:
        ConfigError: The searcher cannot be loaded, or cannot search this space.
    """
    if searcher == "random":
        return lambda index, history: draw(space, seed, index)
    if searcher == "grid":
        grid = enumerate_grid(space)
        return lambda index, history: _next_of_grid(grid, [seen.params for seen in history])
    if searcher == "optuna":
        return lambda index, history: _suggest_by_tpe(space, seed, index, history, mode)
    function = load_object(searcher, purpose="sweep.searcher")
    return lambda index, history: _checked(function(space, seed, index, history), space, searcher)


def _next_of_grid(grid: Sequence[Params], tried: Sequence[Params]) -> Params | None:
    """Return the first combination that was not tried; another space may have been searched before."""
    return next((params for params in grid if params not in tried), None)


def first_values(config: RunConfig, space: Space) -> Params | None:
    """Return the values to begin with: the config's own, which the others are measured by.

    None where the space leaves them out, where each combination of a grid has its turn, and for a searcher of
    the user's own.
    """
    turns = any(dimension.grid is not None for dimension in space.values())
    return None if turns or config.sweep.searcher not in ("random", "optuna") else own_values(config, space)


def _suggest_by_tpe(space: Space, seed: int, index: int, history: Sequence[Seen], mode: Mode) -> Params:
    """Ask a tree-structured Parzen estimator that has seen the history and nothing else.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"; Optuna, arXiv:1907.10902.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # constant_liar keeps trials at the same time apart; it is marked experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + index) % 2**32, constant_liar=True)
        study = optuna.create_study(direction="maximize" if mode == "max" else "minimize", sampler=sampler)
        for seen in history:
            if fits(space, seen.params):
                study.add_trial(_as_optuna_trial(space, seen))
        trial = study.ask()
        params: Params = {}
        for path, dimension in space.items():
            condition = dimension.condition
            if condition is None or (condition.field in params and condition.holds(params[condition.field])):
                params[path] = _ask(trial, path, dimension)
    return params


def _ask(trial: Any, path: str, dimension: Dimension) -> Any:
    if dimension.int is not None:
        return dimension.int[0] + trial.suggest_int(path, 0, dimension.int[1] - dimension.int[0])
    if dimension.values is not None:
        return dimension.values[trial.suggest_categorical(path, range(len(dimension.values)))]
    low, high = dimension.uniform or dimension.loguniform or (0.0, 1.0)
    return trial.suggest_float(path, low, high, log=dimension.loguniform is not None)


def _as_optuna_trial(space: Space, seen: Seen) -> Any:
    import optuna

    values: dict[str, Any] = {}
    for path, value in seen.params.items():
        choices = space[path].values
        values[path] = value if choices is None else choices.index(value)
    known = seen.value is not None
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.COMPLETE if known else optuna.trial.TrialState.RUNNING,
        params=values,
        distributions={path: _distribution(space[path]) for path in values},
        value=seen.value,
    )


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.int is not None:
        return IntDistribution(0, dimension.int[1] - dimension.int[0])
    if dimension.values is not None:
        # By index, since a value may be a list.
        return CategoricalDistribution(range(len(dimension.values)))
    if dimension.loguniform:
        return FloatDistribution(*dimension.loguniform, log=True)
    return FloatDistribution(*(dimension.uniform or (0.0, 1.0)))


def _checked(params: Any, space: Space, searcher: str) -> Params | None:
    if params is None:
        return None
    if isinstance(params, dict) and set(params) >= set(space):
        params = active(space, params)
    if not isinstance(params, dict) or not fits(space, params):
        raise ConfigError(
            f"sweep.searcher {searcher!r} gave {show_value(params)}, which is not in sweep.space.",
            "Return a mapping of every searched field to a value that its dimension allows, or None at the end.",
        )
    return params
