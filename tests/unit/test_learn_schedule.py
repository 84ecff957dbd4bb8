import math

import pytest
import tensorflow as tf

from rayft.config import OptimConfig
from rayft.learn.schedule import learning_rate


def rates(schedule, steps, *, total=100, warmup=0.0, factor=1.0, **options):
    config = OptimConfig(learning_rate=2.0, schedule=schedule, warmup_fraction=warmup, schedule_options=options)
    return [float(learning_rate(config, tf.constant(step, tf.int64), total, factor)) for step in steps]


def half_cosine(progress):
    return (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        ("constant", {}, {0: 2, 50: 2, 99: 2}),
        ("cosine", {}, {0: 2, 50: 1, 75: 2 * half_cosine(0.75)}),
        ("linear", {}, {0: 2, 25: 1.5, 99: 0.02}),
        ("step", {"gamma": 0.1, "milestones": (0.3, 0.6)}, {29: 2, 30: 0.2, 59: 0.2, 60: 0.02}),
        ("exponential", {"gamma": 0.01}, {0: 2, 50: 0.2, 75: 2 * 0.01**0.75}),
        # Up from 2 / 10 in 20 steps, then down to 2 / (10 * 100).
        (
            "one_cycle",
            {"rise_fraction": 0.2, "div_factor": 10, "final_div_factor": 100},
            {0: 0.2, 10: 1.1, 20: 2, 60: (2 + 0.002) / 2},
        ),
        # Three cosines of 1/7, 2/7 and 4/7 of 70 steps.
        ("cosine_restarts", {"cycles": 3, "cycle_growth": 2}, {0: 2, 5: 1, 10: 2, 20: 1, 30: 2, 50: 1}),
        ("plateau", {}, {0: 2, 99: 2}),
    ],
)
def test_each_schedule_has_the_rates_computed_by_hand(schedule, options, expected):
    total = 70 if schedule == "cosine_restarts" else 100
    assert rates(schedule, expected, total=total, **options) == pytest.approx(list(expected.values()), rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "peak"), [("cosine", 2), ("step", 2), ("cosine_restarts", 2), ("plateau", 2), ("one_cycle", 2 / 25)]
)
def test_warm_up_rises_linearly_to_where_the_schedule_begins(schedule, peak):
    assert rates(schedule, (0, 4, 9, 10), warmup=0.1) == pytest.approx([peak / 10, peak / 2, peak, peak], rel=1e-5)


def test_drops_on_a_plateau_scale_the_rate_and_no_other_schedule():
    assert rates("plateau", (50,), factor=0.25) == [0.5]
    assert rates("constant", (50,), factor=0.25) == [2.0]
