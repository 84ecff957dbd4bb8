"""The learning-rate range test, on losses whose answer is known."""

import numpy as np
import pytest
import tensorflow as tf
from test_learn_step import CLASSES, backbone, dataset_of, make_batch, make_config  # noqa: F401

from rayft.errors import ConfigError, RunFailed
from rayft.learn.digest import digest
from rayft.learn.range_test import HIGHEST, LOWEST, measure_losses, pick_rate
from rayft.model.network import build_network

STEPS = 2000


def descend(curvature, rates):
    """Losses of gradient descent on curvature x^2 / 2, each taken before its step."""
    x, losses = 1.0, []
    for rate in rates:
        losses.append(curvature * x**2 / 2)
        x -= rate * curvature * x
    return np.array(losses)


@pytest.mark.parametrize("curvature", [0.5, 20.0, 300.0])
def test_on_a_quadratic_the_steepest_rate_is_the_one_in_closed_form(curvature):
    rates = np.geomspace(1e-8, 1e-1, STEPS)
    # With n steps to a factor e and small rates the loss is exp(-2 n h r), steepest over log r at r = 1 / (2 n h).
    steps_per_e = (STEPS - 1) / np.log(rates[-1] / rates[0])
    expected = 1 / (2 * steps_per_e * curvature)
    assert pick_rate(rates, descend(curvature, rates), smoothing=0) == pytest.approx(expected, rel=0.02)


def test_a_divergence_behind_the_minimum_and_noise_do_not_move_the_rate_far():
    rates = np.geomspace(1e-6, 10, 96)
    losses = np.exp(-rates / 1e-3) + 0.3 + np.where(rates > 0.5, rates, 0)
    noisy = losses + np.random.default_rng(0).normal(0, 0.02, 96)
    noisy[-3:] = np.inf
    # Without noise the answer is 1e-3; smoothing delays it by a few steps of 18% each.
    assert 1e-3 / 2.5 < pick_rate(rates, noisy) < 2.5e-3


def test_a_loss_that_never_falls_has_no_rate():
    rates = np.geomspace(1e-6, 1, 50)
    with pytest.raises(RunFailed, match="no rate at which the loss falls"):
        pick_rate(rates, np.linspace(1, 5, 50))


def test_the_test_rises_exponentially_and_leaves_the_network_as_it_was(backbone):  # noqa: F811
    freeze = {"depth": 1, "head_first_epochs": 1, "batch_norm": "trainable"}
    config = make_config(backbone, freeze=freeze, optim={"learning_rate": "auto", "name": "sgd"}, train={"epochs": 12})
    network = build_network(config, CLASSES)
    before = digest(network.model.variables)
    batches = [make_batch(step=step, seed=0) for step in range(24)]
    rates, losses = measure_losses(
        config, network, dataset_of(batches), total_steps=24, strategy=tf.distribute.get_strategy()
    )
    assert rates[0] == LOWEST
    assert len(rates) == len(losses) <= 24
    np.testing.assert_allclose(rates[1:] / rates[:-1], (HIGHEST / LOWEST) ** (1 / 23))
    assert losses.min() < losses[0]
    assert digest(network.model.variables) == before
    assert (network.phase, network.frozen_depth) == (0, 2)
    again = measure_losses(
        config, network.at(0), dataset_of(batches), total_steps=24, strategy=tf.distribute.get_strategy()
    )
    np.testing.assert_array_equal(again[1], losses)


def test_a_run_too_short_for_a_test_is_refused(backbone):  # noqa: F811
    config = make_config(backbone, optim={"learning_rate": "auto"})
    with pytest.raises(ConfigError, match="takes 24 steps or more, the run has 9"):
        measure_losses(
            config,
            build_network(config, CLASSES),
            dataset_of([make_batch()]),
            total_steps=9,
            strategy=tf.distribute.get_strategy(),
        )
