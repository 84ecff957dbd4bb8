import random
from types import SimpleNamespace

import pytest

from rayft.config import parse_config
from rayft.distributed.sweep.schedulers import bracket_order, keep_within, make_scheduler


def config_of(scheduler, **sweep):
    space = {"optim.learning_rate": {"loguniform": [1e-4, 1e-1]}, "optim.weight_decay": {"uniform": [0, 0.5]}}
    return parse_config(
        {
            "data": {"source": "x"},
            "train": {"epochs": 9},
            "sweep": {"scheduler": scheduler, "space": space, **sweep},
        }
    )


def test_a_round_of_hyperband_has_the_brackets_of_its_paper():
    # R = 9, eta = 3: 9 trials from 1 epoch on, 5 from 3 on, 3 to the end.
    assert bracket_order(9, 1, 3) == [0] * 9 + [1] * 5 + [2] * 3
    assert bracket_order(8, 1, 3) == [0] * 3 + [1] * 2
    assert bracket_order(2, 1, 3) == [0]


def play(scheduler, index, accuracy):
    """Run one trial alone; returns the epochs that it was given."""
    trial = SimpleNamespace(trial_id=str(index), config={"trial": {"index": index}})
    scheduler.on_trial_add(None, trial)
    for epoch in range(1, 10):
        if scheduler.on_trial_result(None, trial, {"epoch": epoch, "accuracy": accuracy}) == "STOP":
            return epoch
    return 9


def test_hyperband_stops_poor_trials_although_they_run_one_by_one():
    config = config_of("hyperband")
    scheduler = make_scheduler(config, config.sweep.space, None, 1)
    # In each bracket the first trial sets the mark.
    epochs = [play(scheduler, index, 1.0 - index / 100) for index in range(17)]
    assert epochs == [9] + [1] * 8 + [9] + [3] * 4 + [9] * 3


def test_asha_stops_poor_trials_after_the_grace():
    config = config_of("asha", grace_epochs=2)
    scheduler = make_scheduler(config, config.sweep.space, None, 1)
    assert [play(scheduler, index, 1.0 - index / 100) for index in range(3)] == [9, 2, 2]


def test_values_that_were_perturbed_out_of_the_space_come_back_to_its_end():
    space = config_of("pbt").sweep.space
    params = {"optim.learning_rate": 0.12, "optim.weight_decay": -0.1}
    assert keep_within(space, params) == {"optim.learning_rate": 0.1, "optim.weight_decay": 0.0}
    inside = {"optim.learning_rate": 0.01, "optim.weight_decay": 0.2}
    assert keep_within(space, inside) == inside


class Trial(SimpleNamespace):
    """What population-based training asks of a trial of Ray Tune."""

    def __hash__(self):
        return hash(self.trial_id)

    def is_finished(self):
        return False


@pytest.mark.parametrize("seed", range(5))
def test_a_trial_that_takes_over_another_ones_values_stays_itself(seed):
    random.seed(seed)
    config = config_of("pbt")
    scheduler = make_scheduler(config, config.sweep.space, None, 2)
    rates = (0.1, 1e-4)
    ours, theirs = (
        Trial(
            trial_id=str(index),
            config={
                "trial": {"index": index, "id": f"000{index}"},
                "params": {"optim.learning_rate": rate, "optim.weight_decay": 0.25},
            },
        )
        for index, rate in enumerate(rates)
    )
    drawn, _ = scheduler._get_new_config(ours, theirs)
    assert drawn["trial"] == ours.config["trial"]
    assert 1e-4 <= drawn["params"]["optim.learning_rate"] <= 1e-1
    assert ours.config["params"]["optim.learning_rate"] == rates[0]
