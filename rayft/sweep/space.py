"""The searched fields: which values they take, and the config of a trial."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rayft.config import BLOCKS_RATE, HEAD_RATE, Dimension, RunConfig, parse_config
from rayft.config.problems import show_value
from rayft.errors import ConfigError

Space = Mapping[str, Dimension]
Params = dict[str, Any]

# Trials are compared on one set of examples by one metric, and run where the sweep runs.
_FIXED = {
    "name": "trials are named by the sweep",
    "storage": "trials lie in the sweep's folder",
    "seed": "repeat the finalists with sweep.seeds instead",
    "sweep": "a sweep does not search itself",
    "cluster": "resources do not change the result",
    "data.source": "trials are compared on the same examples",
    "data.columns": "trials are compared on the same examples",
    "data.validation_fraction": "trials are compared on the same examples",
    "data.test_fraction": "trials are compared on the same examples",
    "data.split_seed": "trials are compared on the same examples",
    "data.on_bad": "trials are compared on the same examples",
    "data.max_pixels": "trials are compared on the same examples",
    "registry": "only the best trial is registered",
    "train.metric": "trials are compared by one metric; set sweep.metric",
}
_LAST_BOUNDARIES = 3
RATE, DEPTH = "optim.learning_rate", "freeze.depth"


def default_space(blocks: Sequence[str]) -> dict[str, Dimension]:
    """Return the space for a config that names none.

    Depth over the last block boundaries and ``all``; learning rate log-uniform from a third of the default for
    unfrozen blocks to three times the default for a head alone.

    Args:
        blocks: The backbone's blocks in input order.
    """
    rate = Dimension(loguniform=(BLOCKS_RATE / 3, HEAD_RATE * 3))
    if not blocks:
        return {RATE: rate}
    boundaries = range(max(len(blocks) - _LAST_BOUNDARIES, 0), len(blocks))
    return {DEPTH: Dimension(choice=[*boundaries, "all"]), RATE: rate}


def check_space(config: RunConfig, space: Space) -> None:
    """Refuse a space with a field or value that no config may have, before anything starts.

    Raises:
        ConfigError: Names the field and what is allowed.
    """
    for path, dimension in space.items():
        for fixed, reason in _FIXED.items():
            if path == fixed or path.startswith(f"{fixed}."):
                raise ConfigError(f"sweep.space.{path}: {fixed} cannot be searched: {reason}.", "Remove it.")
        ends = dimension.uniform or dimension.loguniform
        for value in dimension.values if dimension.values is not None else ends or ():
            try:
                parse_config(_override(config, {path: value}))
            except ConfigError as error:
                raise ConfigError(
                    f"sweep.space.{path} has {show_value(value)}, which the config does not allow. {error.args[0]}",
                    "Correct the value, or the path, in sweep.space.",
                ) from None
    if config.sweep.scheduler == "pbt":
        _check_for_pbt(space)


def trial_config(config: RunConfig, params: Params, *, seed: int | None = None) -> RunConfig:
    """Return the config of a trial.

    A learning rate that is neither searched nor given follows the trial's freeze depth.

    Raises:
        ConfigError: The values do not go together.
    """
    return parse_config(_override(config, params if seed is None else {**params, "seed": seed}))


def active(space: Space, drawn: Params) -> Params:
    """Keep the values whose conditions hold."""
    kept: Params = {}
    for path, dimension in space.items():
        condition = dimension.condition
        if condition is None or (condition.field in kept and condition.holds(kept[condition.field])):
            kept[path] = drawn[path]
    return kept


def own_values(config: RunConfig, space: Space) -> Params | None:
    """Return the values that the config has without a search; None where the space leaves one out."""
    tree = config.model_dump(mode="json")
    values: Params = {}
    for path in space:
        node: Any = tree
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        values[path] = node
    kept = active(space, values)
    return kept if kept and fits(space, kept) else None


def draw(space: Space, seed: int, index: int) -> Params:
    """Return random values, a pure function of (seed, index); grid dimensions take turns.

    Every dimension consumes one number, so that a condition does not shift what follows it.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    grid = {path: dimension for path, dimension in space.items() if dimension.kind == "grid"}
    turns = list(itertools.product(*(dimension.grid or [] for dimension in grid.values())))
    turn = dict(zip(grid, turns[index % len(turns)], strict=True))
    drawn = {path: turn.get(path, _from_unit(dimension, generator.random())) for path, dimension in space.items()}
    return active(space, drawn)


def enumerate_grid(space: Space) -> list[Params]:
    """Return every combination once, the last dimension changing fastest.

    Raises:
        ConfigError: A dimension has endless values.
    """
    for path, dimension in space.items():
        if dimension.values is None:
            raise ConfigError(
                f"sweep.space.{path} is {dimension.kind}; with sweep.searcher grid only grid, choice and int "
                "are allowed.",
                "List its values with grid, or set sweep.searcher to random.",
            )
    found: list[Params] = []
    for values in itertools.product(*(dimension.values or [] for dimension in space.values())):
        params = active(space, dict(zip(space, values, strict=True)))
        if params not in found:
            found.append(params)
    return found


def fits(space: Space, params: Params) -> bool:
    """Whether a trial of an earlier space could be a trial of this one."""
    drawn = {path: params.get(path) for path in space}
    if any(drawn[path] is not None and not _allows(dimension, drawn[path]) for path, dimension in space.items()):
        return False
    try:
        return active(space, drawn) == params
    except ValueError:
        return False


def _allows(dimension: Dimension, value: Any) -> bool:
    if dimension.values is not None:
        return any(value == each and type(value) is type(each) for each in dimension.values)
    low, high = dimension.uniform or dimension.loguniform or (math.nan, math.nan)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _from_unit(dimension: Dimension, unit: float) -> Any:
    """Map a number from [0, 1) to a value."""
    if dimension.values is not None:
        return dimension.values[int(unit * len(dimension.values))]
    if dimension.loguniform:
        low, high = map(math.log, dimension.loguniform)
        return math.exp(low + unit * (high - low))
    low, high = dimension.uniform or (0.0, 0.0)
    return low + unit * (high - low)


def _override(config: RunConfig, params: Params) -> dict[str, Any]:
    raw = copy.deepcopy(config.model_dump(mode="json"))
    default = HEAD_RATE if config.freeze.depth == "all" else BLOCKS_RATE
    if DEPTH in params and RATE not in params and config.optim.learning_rate == default:
        del raw["optim"]["learning_rate"]
    for path, value in params.items():
        *above, last = path.split(".")
        node = raw
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"sweep.space.{path}: {part!r} holds {show_value(node)}, so it has no fields.", "Name a field."
                )
        node[last] = value
    return raw


def _check_for_pbt(space: Space) -> None:
    for path, dimension in space.items():
        if dimension.when is not None:
            raise ConfigError(
                f"sweep.scheduler is pbt, which changes every field on its way; sweep.space.{path} has a condition.",
                "Remove `when`, or choose another scheduler.",
            )
        if not path.startswith("optim.") or path == "optim.name":
            raise ConfigError(
                f"sweep.scheduler is pbt, which changes settings while a trial trains; sweep.space has {path}.",
                "Search fields of optim alone (name left out), or choose another scheduler.",
            )


def describe(params: Params) -> str:
    """Return values as a person writes them, the fields' last names alone."""
    return ", ".join(f"{path.rpartition('.')[2]} {format_value(value)}" for path, value in params.items())


def format_value(value: Any) -> str:
    """Return a value in a few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def searched(trials: Iterator[Params] | Sequence[Params]) -> list[str]:
    """Return the paths that occur in any of the trials, in order of first appearance."""
    return list(dict.fromkeys(path for params in trials for path in params))
