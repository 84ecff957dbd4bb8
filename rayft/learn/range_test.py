"""Learning-rate range test: what ``optim.learning_rate: auto`` stands for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rayft.config import OptimConfig, RunConfig
from rayft.errors import ConfigError, RunFailed
from rayft.learn.loop import compile_steps
from rayft.learn.step import Task
from rayft.model.network import Network

LOWEST, HIGHEST = 1e-6, 10.0
MOST_STEPS, FEWEST_STEPS = 96, 24
SMOOTHING = 0.8
# The loss has left the range of useful rates.
DIVERGED = 4.0
_STEPS_PER_CALL = 8


def measure_losses(
    config: RunConfig,
    network: Network,
    batches: tf.data.Dataset,
    *,
    total_steps: int,
    strategy: tf.distribute.Strategy,
    alive: Callable[[], None] = lambda: None,
    new_task: Callable[..., Task] = Task,
) -> tuple[np.ndarray, np.ndarray]:
    """Train some steps at an exponentially rising rate, then put every weight back; a collective.

    The blocks of the last phase train, since ``optim.learning_rate`` is theirs.

    Args:
        config: The run; its learning rate does not matter.
        network: In its first phase, and again so afterwards.
        batches: This replica's slices of the global batches from step 0 on.
        total_steps: Steps of the whole run.
        strategy: Spans the workers.
        alive: Called after every few steps, for the watchdog.
        new_task: Builds the task from config, network, total_steps and strategy.

    Returns:
        Rates and global losses float64 [n], up to where the loss had left the useful range.

    Raises:
        ConfigError: The run has too few steps for a test.
    """
    steps = min(MOST_STEPS, total_steps)
    if steps < FEWEST_STEPS:
        raise ConfigError(
            f"optim.learning_rate is auto; its test takes {FEWEST_STEPS} steps or more, the run has {total_steps}.",
            "Give a learning rate, or train longer.",
        )
    variables = [variable for variable in network.model.variables if id(variable) not in network.fixed]
    before = [np.array(variable) for variable in variables]
    plain = {**config.optim.model_dump(), "learning_rate": 1.0}
    trial = config.model_copy(update={"optim": OptimConfig.model_validate(plain)})
    task = new_task(trial, network.at(len(network.phases) - 1), total_steps=total_steps, strategy=strategy)
    rates = np.geomspace(LOWEST, HIGHEST, steps)
    table = tf.constant(rates, tf.float32)
    task.updater.learning_rate = lambda step: table[step]  # type: ignore[method-assign]
    run_steps, iterator, losses = compile_steps(task), iter(batches), np.zeros(0)
    while len(losses) < steps and not _is_over(losses):
        count = min(_STEPS_PER_CALL, steps - len(losses))
        # Collective: the losses are global, so every rank stops here at the same step.
        part = run_steps(iterator, tf.constant(count), tf.zeros([1], tf.float64))[0]
        losses = np.concatenate([losses, part.numpy()])
        alive()
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    network.at(0)
    return rates[: len(losses)], losses


def pick_rate(rates: np.ndarray, losses: np.ndarray, smoothing: float = SMOOTHING) -> float:
    """Return the rate at which the loss falls most steeply over the logarithm of the rate.

    Source: Smith 2017, arXiv:1506.01186, section 3.3. The loss is first smoothed exponentially, its start
    corrected for as in Adam; rates behind its minimum are left out.

    Args:
        rates: Geometric, rising [n].
        losses: Loss of the step at each rate [n].
        smoothing: Weight of the past, 0 for none.

    Raises:
        RunFailed: The loss falls at no rate.
    """
    smooth = smooth_losses(losses, smoothing)
    lowest = int(np.argmin(smooth))
    slopes = np.gradient(smooth[: lowest + 1], np.log(rates[: lowest + 1])) if lowest >= 2 else np.zeros(1)
    if not slopes.min() < 0:
        raise RunFailed(
            f"The learning-rate test from {LOWEST:g} to {HIGHEST:g} found no rate at which the loss falls.",
            "Give optim.learning_rate, and look at labels and pictures.",
        )
    return float(rates[int(np.argmin(slopes))])


def smooth_losses(losses: np.ndarray, smoothing: float) -> np.ndarray:
    """Return the bias-corrected exponential mean of the losses up to the first that is not finite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    kept = losses[: bad[0]] if bad.size else losses
    mean, smooth = 0.0, []
    for index, loss in enumerate(kept, start=1):
        mean = smoothing * mean + (1 - smoothing) * loss
        smooth.append(mean / (1 - smoothing**index))
    return np.array(smooth)


def _is_over(losses: np.ndarray) -> bool:
    smooth = smooth_losses(losses, SMOOTHING)
    return len(smooth) < len(losses) or (len(smooth) > 0 and bool(smooth[-1] > DIVERGED * smooth.min()))
