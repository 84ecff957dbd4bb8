import math
from dataclasses import replace

import pytest

from rayft.config import Dimension
from rayft.sweep.choose import best_epoch, estimate, t_quantile
from rayft.sweep.findings import find, importances, marginal_cost, pareto, response_surface
from rayft.sweep.record import Trial

SPACE = {
    "freeze.depth": Dimension(choice=[3, 5, "all"]),
    "optim.learning_rate": Dimension(loguniform=(1e-4, 1e-1)),
}


def trial(index, depth, rate, accuracy, epoch_s=1.0, latency_ms=None):
    line = {"epoch": 1, "step": 1, "accuracy": accuracy, "log_loss": 1.0}
    return Trial(
        id=f"{index:04d}",
        index=index,
        role="search",
        params={"freeze.depth": depth, "optim.learning_rate": rate},
        seed=0,
        kind="light",
        state="finished",
        curve=(line, line),
        epochs=2,
        best=best_epoch([line], "accuracy"),
        train_s=2 * epoch_s,
        latency_ms=latency_ms,
    )


def test_the_surface_holds_the_best_of_each_cell():
    trials = [trial(0, "all", 0.01, 0.5), trial(1, 3, 0.01, 0.7), trial(2, 3, 0.01, 0.6), trial(3, 3, 0.1, 0.2)]
    surface = response_surface(trials, "accuracy")
    assert surface.depths == (3, "all")
    assert surface.rates == (0.01, 0.1)
    assert surface.values == ((0.7, 0.2), (0.5, None))


def test_many_rates_fall_into_classes_of_equal_ratio():
    trials = [trial(index, "all", 10 ** (-4 + index / 4), index / 12) for index in range(13)]
    surface = response_surface(trials, "accuracy")
    ratios = [second / first for first, second in zip(surface.rates, surface.rates[1:], strict=False)]
    # Three decades in six classes.
    assert ratios == pytest.approx([10**0.5] * 5)
    assert surface.values[0][-1] == 1.0


def test_importance_is_all_of_the_field_that_decides():
    trials = [
        trial(index, depth, 10 ** (-4 + (7 * index % 24) / 8), 0.8 if depth == "all" else 0.2)
        for index, depth in enumerate([3, "all"] * 12)
    ]
    found = {each.field: each.share for each in importances(trials, SPACE, "accuracy")}
    assert found["freeze.depth"] == 1.0
    assert found["optim.learning_rate"] < 0.3


def test_importance_of_a_smooth_rate_is_large():
    rates = [10 ** (-4 + index / 8) for index in range(24)]
    trials = [trial(index, "all", rate, math.log10(rate)) for index, rate in enumerate(rates)]
    (found,) = importances(trials, SPACE, "accuracy")
    assert found.field == "optim.learning_rate"
    assert found.share > 0.95


def test_the_front_holds_what_nothing_beats_in_both():
    points = pareto([("a", 1.0, 0.5), ("b", 2.0, 0.4), ("c", 3.0, 0.9), ("d", 1.0, 0.3)], "max")
    assert {point.trial for point in points if point.on_front} == {"a", "c"}
    points = pareto([("a", 1.0, 0.5), ("b", 2.0, 0.4), ("c", 3.0, 0.9)], "min")
    assert {point.trial for point in points if point.on_front} == {"a", "b"}


def test_the_marginal_cost_is_said_in_words():
    better, other = trial(0, 3, 0.01, 0.744, epoch_s=2.1), trial(1, 5, 0.01, 0.740, epoch_s=1.0)
    assert marginal_cost(better, other, "accuracy") == ("depth 3 instead of 5: +0.4 points for 2.1x the time per epoch")


def test_the_best_is_measured_against_the_config_as_it_was():
    baseline, better = replace(trial(0, "all", 0.01, 0.70, 0.01), baseline=True), trial(1, 3, 0.01, 0.72, 2.0)
    found = find({each.id: each for each in (baseline, better)}, SPACE, "accuracy")
    assert found.advice[1] == "instead of the config as it is, trial 0000: +2.0 points for 2e+02x the time per epoch"
    worse = trial(1, 3, 0.01, 0.68, 2.0)
    found = find({each.id: each for each in (baseline, worse)}, SPACE, "accuracy")
    assert found.advice[1] == "No trial was better than the config as it is"


def test_a_depth_whose_trials_were_stopped_is_compared_and_that_is_said():
    stopped = replace(trial(1, "all", 0.01, 0.4, 1.0), state="stopped", epochs=10)
    assert marginal_cost(trial(0, 3, 0.01, 0.7, 2.0), stopped, "accuracy") == (
        "depth 3 instead of all: +30.0 points for 2.0x the time per epoch (trial 0001 was stopped after 2 of 10 epochs)"
    )


def test_findings_advise_the_winner_and_compare_it_with_every_depth():
    trials = [trial(0, "all", 0.01, 0.6, 1.0, 5.0), trial(1, 3, 0.01, 0.7, 3.0, 5.0), trial(2, 5, 0.1, 0.65, 2.0, 5.0)]
    found = find({each.id: each for each in trials}, SPACE, "accuracy")
    assert found.winner == "0001"
    assert found.advice == (
        "Take trial 0001: freeze.depth 3, optim.learning_rate 0.01.",
        "depth 3 instead of 5: +5.0 points for 1.5x the time per epoch",
        "depth 3 instead of all: +10.0 points for 3.0x the time per epoch",
    )
    assert [point.trial for point in found.by_latency if point.on_front] == ["0001"]


def test_the_interval_is_that_of_a_t_test():
    # Mean 0.75, standard deviation 0.01, three values: 4.303 * 0.01 / sqrt(3).
    found = estimate("0000", [0.74, 0.75, 0.76])
    assert found.mean == pytest.approx(0.75)
    assert found.high - found.mean == pytest.approx(4.303 * 0.01 / math.sqrt(3))
    assert estimate("0000", [0.74]).low is None


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.706), (10, 2.228), (20, 2.086), (30, 2.042), (100, 1.984)])
def test_t_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, rel=2e-3)


def test_the_best_epoch_of_equal_ones_has_the_lower_log_loss():
    curve = [
        {"epoch": 1, "step": 1, "loss": 1.0, "accuracy": 0.5, "log_loss": 0.9},
        {"epoch": 2, "step": 2, "loss": 1.0, "accuracy": 0.5, "log_loss": 0.8},
        {"epoch": 3, "step": 3, "loss": 1.0, "accuracy": 0.4, "log_loss": 0.7},
    ]
    assert best_epoch(curve, "accuracy") == {"epoch": 2, "step": 2, "metrics": {"accuracy": 0.5, "log_loss": 0.8}}
    assert best_epoch(curve, "log_loss")["epoch"] == 3
