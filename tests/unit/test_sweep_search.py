import pytest

from rayft.config import parse_config
from rayft.errors import ConfigError
from rayft.sweep.search import Seen, first_values, get_suggest

DIMENSIONS = {
    "freeze.depth": {"choice": [1, "all"]},
    "optim.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "train.epochs": {"int": [2, 5]},
    "optim.weight_decay": {"uniform": [0, 0.1], "when": "freeze.depth < all"},
}


def space():
    return parse_config({"data": {"source": "x"}, "sweep": {"space": DIMENSIONS}}).sweep.space


def own_search(space, seed, index, history):
    return {path: 0.05 if dimension.uniform else 0.01 for path, dimension in space.items()} if index < 2 else None


def wrong_search(space, seed, index, history):
    return {"optim.learning_rate": 5.0}


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_searcher_that_sees_the_same_history_gives_the_same_answer(searcher):
    def play(history):
        # A new searcher each time: none of its state survives but the history.
        params = get_suggest(searcher, space(), seed=3, mode="max")(len(history), history)
        return [*history, Seen(params, float(params["optim.learning_rate"]))]

    first, second = [], []
    for _ in range(14):
        first, second = play(first), play(second)
    assert first == second
    assert len({seen.params["optim.learning_rate"] for seen in first}) == 14


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_tpe_prefers_where_the_metric_was_good(mode, sign):
    suggest = get_suggest("optuna", space(), seed=0, mode=mode)
    random = get_suggest("random", space(), seed=1, mode=mode)
    history = []
    for index in range(30):
        params = random(index, history)
        history.append(Seen(params, sign * (1.0 if params["freeze.depth"] == "all" else 0.0)))
    chosen = [suggest(index, history)["freeze.depth"] for index in range(30, 70)]
    # A random search would give 20, with a standard deviation of 3.2.
    assert chosen.count("all") > 26


def test_tpe_takes_note_of_trials_that_still_run():
    suggest = get_suggest("optuna", space(), seed=0, mode="max")
    history = [Seen(get_suggest("random", space(), seed=1, mode="max")(0, []), None)]
    assert suggest(1, history)["train.epochs"] in range(2, 6)


def test_tpe_leaves_out_trials_of_another_space():
    suggest = get_suggest("optuna", space(), seed=0, mode="max")
    assert suggest(1, [Seen({"model.dropout": 0.5}, 1.0)]) == suggest(1, [])


@pytest.mark.parametrize(
    ("searcher", "changes", "expected"),
    [
        ("random", {}, {"freeze.depth": "all", "optim.learning_rate": 0.003, "train.epochs": 4}),
        ("optuna", {}, {"freeze.depth": "all", "optim.learning_rate": 0.003, "train.epochs": 4}),
        ("grid", {"optim.learning_rate": {"grid": [0.003, 0.01]}}, None),
        # Each value of a grid has its turn.
        ("random", {"optim.learning_rate": {"grid": [0.003, 0.01]}}, None),
        # The config's own rate lies outside.
        ("random", {"optim.learning_rate": {"loguniform": [1e-2, 1e-1]}}, None),
    ],
)
def test_a_search_begins_with_the_config_as_it_is(searcher, changes, expected):
    space = {**DIMENSIONS, **changes}
    config = parse_config({"data": {"source": "x"}, "train": {"epochs": 4}, "sweep": {"space": space}})
    sweep = config.sweep.model_copy(update={"searcher": searcher})
    assert first_values(config.model_copy(update={"sweep": sweep}), config.sweep.space) == expected


def test_a_grid_ends():
    settings = parse_config({"data": {"source": "x"}, "sweep": {"space": {"freeze.depth": {"grid": [1, 2]}}}})
    suggest = get_suggest("grid", settings.sweep.space, seed=0, mode="max")
    history = []
    for index in range(2):
        history.append(Seen(suggest(index, history), None))
    assert [seen.params for seen in history] == [{"freeze.depth": 1}, {"freeze.depth": 2}]
    assert suggest(2, history) is None


def test_a_searcher_of_the_users_own_is_called_and_checked():
    small = {"optim.learning_rate": {"uniform": [0.01, 0.1]}}
    settings = parse_config({"data": {"source": "x"}, "sweep": {"space": small}}).sweep.space
    suggest = get_suggest(f"{__name__}:own_search", settings, seed=0, mode="max")
    assert [suggest(index, []) for index in range(3)] == [{"optim.learning_rate": 0.05}] * 2 + [None]
    with pytest.raises(ConfigError, match="not in sweep"):
        get_suggest(f"{__name__}:wrong_search", settings, seed=0, mode="max")(0, [])
