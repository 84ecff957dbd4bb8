import json
import resource

import pytest

from rayft.config import parse_config
from rayft.errors import RunFailed, StorageError
from rayft.runs import RunFolder
from rayft.storage import Storage
from rayft.sweep.conductor import Conductor
from rayft.sweep.outcome import summarise
from rayft.sweep.record import SweepFolder
from rayft.sweep.search import get_suggest

EPOCHS = 3


class Sweep:
    """A conductor on a folder, and trials that 'train' to a metric that follows from their values."""

    def __init__(self, path, slots=2, clock=lambda: 0.0, first=None, **sweep):
        sweep = {"space": {"optim.learning_rate": {"uniform": [0.1, 0.9]}}, "trials": 4, **sweep}
        self.config = parse_config({"data": {"source": "x"}, "train": {"epochs": EPOCHS}, "sweep": sweep})
        self.space = self.config.sweep.space
        self.folder = SweepFolder(RunFolder(Storage.open(path)))
        suggest = get_suggest(self.config.sweep.searcher, self.space, seed=0, mode="max")
        self.conductor = Conductor(
            self.config, self.space, self.folder, suggest, kind="light", slots=slots, first=first, clock=clock
        )

    def report(self, trial, epochs=EPOCHS, error=None, bonus=0.0):
        value = trial.params["optim.learning_rate"] + bonus
        curve = [
            {"epoch": n, "step": 10 * n, "loss": 1.0, "learning_rate": 0.1, "examples_per_s": 50.0}
            | {"accuracy": value * n / EPOCHS, "log_loss": 1.0}
            for n in range(1, epochs + 1)
        ]
        finished = epochs == EPOCHS and error is None
        summary = {"final": {}, "best": {"epoch": EPOCHS, "step": 30}} if trial.role == "winner" else None
        self.conductor.reported(
            trial.id,
            {
                "curve": curve,
                "epochs": EPOCHS,
                "train_s": 1.0,
                "failures": int(error is not None),
                "finished": finished,
                "error": error,
                "summary": summary,
            },
        )

    def finish(self, trial, **changes):
        self.report(trial, **changes)
        self.conductor.completed(trial.id)

    def run(self, until=lambda trial: False):
        """Run trials one by one to the end, or until one for which ``until`` holds; that one is left running."""
        order = []
        while (trial := self.conductor.next()) not in ("wait", "end"):
            order.append(trial.id)
            self.conductor.started(trial.id)
            if until(trial):
                self.report(trial, epochs=1)
                break
            self.finish(trial)
        return order


def values(sweep):
    return {name: trial.params for name, trial in sweep.conductor.trials.items()}


def test_trials_run_in_order_and_the_best_is_packaged_last(tmp_path):
    sweep = Sweep(tmp_path)
    assert sweep.run() == ["0000", "0001", "0002", "0003", "winner"]
    assert sweep.conductor.next() == "end"
    trials = sweep.conductor.trials
    best = max((trial for name, trial in trials.items() if name != "winner"), key=lambda t: t.metric("accuracy"))
    assert trials["winner"].params == best.params
    result = summarise(sweep.config, sweep.space, trials)
    assert (result["trials"], result["best_trial"], result["status"]) == (4, best.id, "finished")
    assert result["best_config"]["optim"]["learning_rate"] == best.params["optim.learning_rate"]


def test_the_first_trial_may_be_given_and_is_the_baseline(tmp_path):
    own = {"optim.learning_rate": 0.5}
    sweep = Sweep(tmp_path, trials=3, first=own)
    sweep.run()
    plain = Sweep(tmp_path / "plain", trials=3)
    plain.run()
    trials = sweep.conductor.trials
    assert [trial.baseline for trial in trials.values()] == [True, False, False, False]
    assert trials["0000"].params == own
    # The others are those of a search without it.
    assert {name: trials[name].params for name in ("0001", "0002")} == {
        name: plain.conductor.trials[name].params for name in ("0001", "0002")
    }


def test_the_metric_is_that_of_the_packaged_model_where_the_winner_had_been_stopped(tmp_path):
    sweep = Sweep(tmp_path, slots=1, trials=1)
    stopped = sweep.conductor.next()
    sweep.finish(stopped, epochs=1)
    sweep.finish(sweep.conductor.next())
    result = summarise(sweep.config, sweep.space, sweep.conductor.trials)
    assert result["best_value"] == stopped.params["optim.learning_rate"]


def test_no_more_trials_run_at_once_than_there_are_slots(tmp_path):
    sweep = Sweep(tmp_path, slots=2)
    first, second = sweep.conductor.next(), sweep.conductor.next()
    assert (first.id, second.id) == ("0000", "0001")
    assert sweep.conductor.next() == "wait"
    sweep.conductor.paused(second.id)
    assert sweep.conductor.next().id == "0002"


def test_repeats_and_winner_wait_for_the_search(tmp_path):
    sweep = Sweep(tmp_path, slots=2, trials=1, seeds=3)
    search = sweep.conductor.next()
    assert sweep.conductor.next() == "wait"
    sweep.finish(search)
    repeats = [sweep.conductor.next(), sweep.conductor.next()]
    assert [trial.id for trial in repeats] == ["0000-seed1", "0000-seed2"]
    sweep.finish(repeats[0])
    assert sweep.conductor.next() == "wait"
    sweep.finish(repeats[1])
    assert sweep.conductor.next().id == "winner"


def test_the_mean_over_seeds_decides_between_finalists(tmp_path):
    sweep = Sweep(tmp_path, slots=1, trials=2, seeds=2, finalists=2)
    trials = [sweep.conductor.next()]
    sweep.finish(trials[0])
    trials.append(sweep.conductor.next())
    sweep.finish(trials[1])
    lucky = max(trials, key=lambda trial: trial.params["optim.learning_rate"])
    while (trial := sweep.conductor.next()).role == "repeat":
        sweep.finish(trial, bonus=-5.0 if trial.index == lucky.index else 0.0)
    assert trial.role == "winner"
    assert trial.index != lucky.index


@pytest.mark.parametrize("killed_at", ["0000", "0002", "winner"])
def test_a_new_driver_goes_on_with_the_same_trials(tmp_path, killed_at):
    undisturbed = Sweep(tmp_path / "undisturbed")
    undisturbed.run()
    before = Sweep(tmp_path / "killed").run(until=lambda trial: trial.id == killed_at)
    after = Sweep(tmp_path / "killed")
    again = after.run()
    # Only the one that was running comes a second time.
    assert set(before) & set(again) == {killed_at}
    assert values(after) == values(undisturbed)
    known = {name: trial.best for name, trial in after.conductor.trials.items()}
    assert known == {name: trial.best for name, trial in undisturbed.conductor.trials.items()}


def test_a_finished_sweep_is_extended_in_a_changed_space(tmp_path):
    Sweep(tmp_path).run()
    wider = Sweep(tmp_path, trials=6, searcher="optuna", space={"optim.learning_rate": {"uniform": [0.05, 0.95]}})
    assert wider.run()[:2] == ["0004", "0005"]
    assert len([name for name in wider.conductor.trials if name != "winner"]) == 6


def test_a_changed_grid_is_searched_for_what_it_has_that_is_new(tmp_path):
    def space(*rates):
        return {"searcher": "grid", "space": {"optim.learning_rate": {"grid": list(rates)}}}

    first = Sweep(tmp_path, trials=4, **space(0.1, 0.2))
    failed = first.conductor.next()
    first.conductor.failed(failed.id, "the process died")
    first.run()
    wider = Sweep(tmp_path, trials=9, **space(0.05, 0.1, 0.2, 0.3))
    wider.run()
    rates = [trial.params["optim.learning_rate"] for name, trial in wider.conductor.trials.items() if name != "winner"]
    assert rates == [0.1, 0.2, 0.05, 0.3]


def test_a_winner_that_failed_gets_another_try_at_the_next_start(tmp_path):
    sweep = Sweep(tmp_path, trials=1)
    sweep.finish(sweep.conductor.next())
    winner = sweep.conductor.next()
    sweep.conductor.failed(winner.id, "the disk is full")
    assert sweep.conductor.next() == "end"
    with pytest.raises(RunFailed, match="the disk is full"):
        summarise(sweep.config, sweep.space, sweep.conductor.trials)
    again = Sweep(tmp_path, trials=1)
    assert again.run() == ["winner"]
    assert summarise(again.config, again.space, again.conductor.trials)["status"] == "finished"


def test_a_winner_is_trained_anew_where_that_is_asked_for_later(tmp_path):
    plain = Sweep(tmp_path, trials=1)
    plain.run()
    refitted = Sweep(tmp_path, trials=1, refit=True)
    assert refitted.run() == ["winner"]
    # A folder of its own for each trial that wins: the checkpoints of another one would be gone on from.
    winner = refitted.conductor.trials["winner"]
    assert refitted.conductor.winner_folder(winner) == "0000-refit"
    assert plain.conductor.winner_folder(plain.conductor.trials["winner"]) == "0000"
    assert Sweep(tmp_path, trials=1, refit=True).run() == []
    result = summarise(refitted.config, refitted.space, refitted.conductor.trials)
    rate = winner.params["optim.learning_rate"]
    assert (result["best"], result["refit"]) == ({"epoch": 3, "step": 30, "accuracy": rate}, True)


def test_an_interrupted_trial_without_time_left_ranks_behind_whole_ones(tmp_path):
    first = Sweep(tmp_path, slots=1, trials=2)
    first.run(until=lambda trial: trial.id == "0001")
    first.report(first.conductor.trials["0001"], epochs=2, bonus=5.0)
    now = iter([0.0, *[11.0] * 99])
    late = Sweep(tmp_path, slots=1, trials=2, time_budget_s=10, clock=lambda: next(now))
    assert not late.conductor.has_more()
    assert late.run() == ["winner"]
    assert late.conductor.trials["winner"].index == 0


def test_it_is_known_whether_trials_have_not_started_yet(tmp_path):
    sweep = Sweep(tmp_path, slots=2, trials=2)
    assert sweep.conductor.has_more()
    sweep.conductor.next()
    assert sweep.conductor.has_more()
    sweep.conductor.next()
    assert not sweep.conductor.has_more()


def test_an_unchanged_winner_is_not_packaged_again(tmp_path):
    Sweep(tmp_path).run()
    assert Sweep(tmp_path).run() == []


def test_a_failed_trial_does_not_end_the_sweep(tmp_path):
    sweep = Sweep(tmp_path, slots=1)
    trial = sweep.conductor.next()
    sweep.conductor.recovered(trial.id, "the process died")
    sweep.conductor.failed(trial.id, "the process died again")
    assert sweep.run()[-1] == "winner"
    failed = sweep.conductor.trials[trial.id]
    assert (failed.state, failed.failures, failed.error) == ("failed", 2, "the process died again")
    assert summarise(sweep.config, sweep.space, sweep.conductor.trials)["trial_states"] == {"failed": 1, "finished": 3}


def test_values_that_do_not_go_together_make_a_failed_trial(tmp_path):
    space = {
        "model.backbone": {"grid": ["none", "efficientnet_lite0"]},
        "model.pooling": {"grid": ["avg"]},
        "optim.learning_rate": {"uniform": [0.1, 0.9]},
    }
    sweep = Sweep(tmp_path, space=space, trials=2)
    sweep.run()
    states = {name: trial.state for name, trial in sweep.conductor.trials.items()}
    assert states == {"0000": "failed", "0001": "finished", "winner": "finished"}
    assert "model.pooling" in sweep.conductor.trials["0000"].error


def test_a_sweep_without_any_metric_fails_with_the_errors(tmp_path):
    sweep = Sweep(tmp_path, trials=1)
    trial = sweep.conductor.next()
    sweep.finish(trial, epochs=0, error="loss is nan")
    assert sweep.conductor.next() == "end"
    with pytest.raises(RunFailed, match="loss is nan"):
        summarise(sweep.config, sweep.space, sweep.conductor.trials)


def test_a_trial_that_ends_early_is_stopped_and_ranks_behind_whole_ones(tmp_path):
    sweep = Sweep(tmp_path, slots=1, trials=2)
    early = sweep.conductor.next()
    sweep.finish(early, epochs=2, bonus=5.0)
    sweep.run()
    assert sweep.conductor.trials[early.id].state == "stopped"
    assert sweep.conductor.trials["winner"].index == 1


def test_the_time_budget_ends_the_search_but_not_the_packaging(tmp_path):
    now = [0.0]
    sweep = Sweep(tmp_path, slots=1, clock=lambda: now[0], time_budget_s=10)
    trial = sweep.conductor.next()
    now[0] = 11.0
    assert sweep.conductor.out_of_time()
    sweep.finish(trial)
    assert sweep.run() == ["winner"]


def test_nothing_is_written_once_closed(tmp_path):
    sweep = Sweep(tmp_path)
    trial = sweep.conductor.next()
    sweep.conductor.close()
    sweep.conductor.failed(trial.id, "Ray ended")
    assert Sweep(tmp_path).conductor.trials[trial.id].state == "waiting"


def test_a_list_of_trials_that_cannot_be_written_ends_the_sweep_as_it_stands(tmp_path):
    sweep = Sweep(tmp_path)
    trial = sweep.conductor.next()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError, match=r"trials\.jsonl"):
            sweep.conductor.failed(trial.id, "no checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "trials.jsonl" in str(sweep.conductor.failure)
    sweep.conductor.completed(trial.id)
    assert sweep.conductor.next() == "end"
    again = Sweep(tmp_path)
    assert again.conductor.trials[trial.id].state == "waiting"
    assert again.run()[-1] == "winner"


def test_a_damaged_list_of_trials_is_named(tmp_path):
    sweep = Sweep(tmp_path)
    sweep.conductor.next()
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(StorageError, match="line 2"):
        Sweep(tmp_path)


def test_each_line_of_the_list_is_a_trial(tmp_path):
    Sweep(tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["0000", "0001", "0002", "0003", "winner"]
    assert all(line["state"] == "finished" for line in lines)
