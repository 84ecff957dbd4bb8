import random
from types import SimpleNamespace

import pytest
from ray.train import Checkpoint
from ray.train._internal.session import _TrainingResult
from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from rayft.config import parse_config
from rayft.distributed.sweep.schedulers import bracket_order, keep_within, make_scheduler
from rayft.distributed.sweep.tuner import tune_settings


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


def make_trial(index, rate):
    values = {"optim.learning_rate": rate, "optim.weight_decay": 0.25}
    trial = Trial("trial", stub=True, config={"trial": {"index": index, "id": f"000{index}"}, "params": values})
    trial.set_status(Trial.RUNNING)
    return trial


@pytest.mark.parametrize("seed", range(5))
def test_a_trial_that_takes_over_another_ones_values_stays_itself(seed):
    random.seed(seed)
    config = config_of("pbt")
    scheduler = make_scheduler(config, config.sweep.space, None, 2)
    ours, theirs = make_trial(0, 0.1), make_trial(1, 1e-4)
    drawn, _ = scheduler._get_new_config(ours, theirs)
    assert drawn["trial"] == ours.config["trial"]
    assert 1e-4 <= drawn["params"]["optim.learning_rate"] <= 1e-1
    assert ours.config["params"]["optim.learning_rate"] == 0.1


class Tune:
    """Runs the trials of a population one by one, as Ray Tune and the conductor do with one slot."""

    def __init__(self, scheduler, rates, fails=()):
        self.scheduler, self.fails = scheduler, fails
        self.new, self.log = [make_trial(*each) for each in enumerate(rates)], []

    def has_more(self):
        return bool(self.new)

    def out_of_time(self):
        return False

    def play(self):
        while True:
            trial = self.scheduler.choose_trial_to_run(self)
            if trial is None and not self.new:
                return self.log
            if trial is None:
                trial = self.new.pop(0)
                self.scheduler.on_trial_add(None, trial)
            trial.set_status(Trial.RUNNING)
            self._train(trial)

    def _train(self, trial):
        index = trial.config["trial"]["index"]
        start = trial.checkpoint
        epoch = int(start.path[1:]) if start else 0
        while epoch < 9:
            epoch += 1
            self.log.append((index, epoch))
            if (index, epoch) in self.fails:
                trial.set_status(Trial.ERROR)
                return
            # The higher the rate, the better.
            result = {"epoch": epoch, "accuracy": trial.config["params"]["optim.learning_rate"]}
            if self.scheduler.on_trial_result(self, trial, result) == "PAUSE":
                manager = trial.run_metadata.checkpoint_manager
                manager._latest_checkpoint_result = _TrainingResult(Checkpoint(f"/{epoch}"), result)
                trial.set_status(Trial.PAUSED)
                return
        trial.set_status(Trial.TERMINATED)


@pytest.mark.parametrize("fails", [(), [(3, 2)]])
def test_a_population_goes_on_in_rounds_and_its_poor_ones_take_over(fails):
    random.seed(0)
    config = config_of("pbt", grace_epochs=3)
    scheduler = make_scheduler(config, config.sweep.space, None, 1)
    tune = Tune(scheduler, [1e-4, 1e-3, 1e-2, 1e-1], fails)
    scheduler._conductor = tune
    trials = list(tune.new)
    log = tune.play()
    # Three rounds of three epochs; nobody is set back, nobody runs ahead.
    living = [0, 1, 2] if fails else [0, 1, 2, 3]
    for index in living:
        assert [epoch for each, epoch in log if each == index] == list(range(1, 10))
    rounds = [(epoch - 1) // 3 for _, epoch in log]
    assert rounds == sorted(rounds)
    rates = [trial.config["params"]["optim.learning_rate"] for trial in trials]
    # The poorest has the best one's value, changed a little or drawn anew; the best keeps its own.
    assert rates[0] != 1e-4
    assert rates[living[-1]] == 10.0 ** (living[-1] - 4)
    assert [trial.config["trial"]["index"] for trial in trials] == [0, 1, 2, 3]


def test_all_processes_of_a_sweep_start_at_once(monkeypatch):
    for name, value in tune_settings(5).items():
        monkeypatch.setenv(name, value)
    assert _get_max_pending_trials(SearchGenerator(Searcher())) == 5
