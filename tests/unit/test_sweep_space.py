import math

import pytest

from rayft.config import Dimension, parse_config
from rayft.errors import ConfigError
from rayft.sweep.space import active, check_space, default_space, draw, enumerate_grid, fits, trial_config

BASE = {"data": {"source": "somewhere"}}


def config(**sweep):
    return parse_config({**BASE, "sweep": sweep})


def space_of(space, **more):
    return config(space=space, **more).sweep.space


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"freeze.depth": {"choice": []}}, "space.freeze.depth: choice"),
        ({"freeze.depth": {}}, "space.freeze.depth: has no kind"),
        ({"freeze.depth": {"choice": [1], "grid": [1]}}, "exactly one of"),
        ({"optim.learning_rate": {"uniform": [1, 0.1]}}, "first end must be below"),
        ({"optim.learning_rate": {"loguniform": [0, 0.1]}}, "above 0"),
        ({"optim.learning_rate": {"lognormal": [0, 0.1]}}, "unknown key 'lognormal'"),
        ({"optim.weight_decay": {"uniform": [0, 0.1], "when": "depth"}}, "field operator value"),
        ({"optim.weight_decay": {"uniform": [0, 0.1], "when": "freeze.depth < all"}}, "only dimensions above it"),
        ({"freeze.depth": 3}, "space.freeze.depth"),
    ],
)
def test_a_wrong_dimension_is_named(space, named):
    with pytest.raises(ConfigError) as error:
        config(space=space)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"freeze.dept": {"choice": [1]}}, "did you mean 'depth'"),
        ({"freeze.depth": {"choice": [-1]}}, "freeze.depth"),
        ({"optim.learning_rate": {"uniform": [0.1, 2000]}}, "2000"),
        ({"train.loss": {"choice": ["cross_entropy", "no_such"]}}, "train.loss"),
        ({"data.test_fraction": {"choice": [0.1]}}, "cannot be searched"),
        ({"cluster.workers": {"choice": [1]}}, "cannot be searched"),
        ({"optim.learning_rate.low": {"choice": [1]}}, "has no fields"),
    ],
)
def test_every_value_is_checked_before_anything_starts(space, named):
    settings = config(space=space)
    with pytest.raises(ConfigError) as error:
        check_space(settings, settings.sweep.space)
    assert named in str(error.value)


def test_pbt_refuses_what_changes_the_network():
    settings = config(space={"freeze.depth": {"choice": [1, "all"]}}, scheduler="pbt")
    with pytest.raises(ConfigError, match="pbt"):
        check_space(settings, settings.sweep.space)


def test_a_draw_depends_on_seed_and_index_alone():
    space = space_of({"freeze.depth": {"choice": [1, 2, "all"]}, "optim.learning_rate": {"loguniform": [1e-4, 1e-2]}})
    first = [draw(space, 7, index) for index in range(20)]
    assert first == [draw(space, 7, index) for index in range(20)]
    assert first != [draw(space, 8, index) for index in range(20)]
    assert len({params["optim.learning_rate"] for params in first}) == 20
    assert {params["freeze.depth"] for params in first} == {1, 2, "all"}


def test_loguniform_draws_have_a_uniform_logarithm():
    space = space_of({"optim.learning_rate": {"loguniform": [1e-4, 1e-2]}})
    logs = [math.log10(draw(space, 0, index)["optim.learning_rate"]) for index in range(2000)]
    assert all(-4 <= value <= -2 for value in logs)
    # Of a uniform distribution over [-4, -2]: mean -3, standard deviation 0.577; five standard errors.
    assert abs(sum(logs) / len(logs) + 3) < 5 * 0.577 / math.sqrt(2000)


def test_an_int_covers_both_ends_and_stays_whole():
    space = space_of({"train.epochs": {"int": [2, 4]}})
    values = {draw(space, 0, index)["train.epochs"] for index in range(50)}
    assert values == {2, 3, 4}
    assert all(isinstance(value, int) for value in values)


def test_a_condition_decides_what_takes_part_and_shifts_nothing():
    dimensions = {
        "freeze.depth": {"choice": [1, "all"]},
        "optim.weight_decay": {"uniform": [0, 0.1], "when": "freeze.depth < all"},
        "optim.learning_rate": {"uniform": [0.1, 0.2]},
    }
    space = space_of(dimensions)
    always = space_of({**dimensions, "optim.weight_decay": {"uniform": [0, 0.1]}})
    for index in range(20):
        params, everything = draw(space, 0, index), draw(always, 0, index)
        assert ("optim.weight_decay" in params) == (params["freeze.depth"] != "all")
        assert params["optim.learning_rate"] == everything["optim.learning_rate"]


def test_a_condition_on_an_absent_dimension_does_not_hold():
    space = space_of(
        {
            "freeze.depth": {"choice": [1, "all"]},
            "optim.weight_decay": {"choice": [0.1], "when": "freeze.depth != all"},
            "optim.clip_norm": {"choice": [1.0], "when": "optim.weight_decay == 0.1"},
        }
    )
    drawn = {"freeze.depth": "all", "optim.weight_decay": 0.1, "optim.clip_norm": 1.0}
    assert active(space, drawn) == {"freeze.depth": "all"}


def test_a_grid_has_every_combination_once():
    space = space_of(
        {
            "freeze.depth": {"grid": [1, "all"]},
            "optim.weight_decay": {"choice": [0.0, 0.1], "when": "freeze.depth != all"},
        }
    )
    assert enumerate_grid(space) == [
        {"freeze.depth": 1, "optim.weight_decay": 0.0},
        {"freeze.depth": 1, "optim.weight_decay": 0.1},
        {"freeze.depth": "all"},
    ]


def test_a_grid_refuses_endless_values():
    with pytest.raises(ConfigError, match="grid"):
        enumerate_grid(space_of({"optim.learning_rate": {"uniform": [0.1, 0.2]}}))


def test_grid_dimensions_take_turns_in_a_random_search():
    space = space_of({"freeze.depth": {"grid": [1, 2, "all"]}, "optim.learning_rate": {"uniform": [0.1, 0.2]}})
    assert [draw(space, 0, index)["freeze.depth"] for index in range(6)] == [1, 2, "all", 1, 2, "all"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"freeze.depth": 1, "optim.learning_rate": 0.15}, True),
        ({"freeze.depth": "all", "optim.learning_rate": 0.15}, False),
        ({"freeze.depth": 1, "optim.learning_rate": 0.25}, False),
        ({"freeze.depth": 1}, False),
        ({"freeze.depth": 1, "optim.learning_rate": 0.15, "optim.clip_norm": 1.0}, False),
    ],
)
def test_an_old_trial_fits_a_changed_space_only_where_it_could_be_drawn(params, expected):
    space = space_of({"freeze.depth": {"choice": [1, 2]}, "optim.learning_rate": {"uniform": [0.1, 0.2]}})
    assert fits(space, params) is expected


def test_a_trial_without_a_rate_of_its_own_takes_the_default_of_its_depth():
    settings = config(space={"freeze.depth": {"choice": [1, "all"]}})
    assert trial_config(settings, {"freeze.depth": 1}).optim.learning_rate == 3e-4
    assert trial_config(settings, {"freeze.depth": "all"}).optim.learning_rate == 3e-3
    given = parse_config({**BASE, "optim": {"learning_rate": 0.5}})
    assert trial_config(given, {"freeze.depth": 1}).optim.learning_rate == 0.5


def test_the_default_space_holds_the_last_boundaries_and_all():
    space = default_space(["a", "b", "c", "d", "e"])
    assert space["freeze.depth"].choice == [2, 3, 4, "all"]
    low, high = space["optim.learning_rate"].loguniform
    assert low < 3e-4 < 3e-3 < high
    assert list(default_space([])) == ["optim.learning_rate"]
    assert default_space(["a"])["freeze.depth"].choice == [0, "all"]


def test_a_dumped_space_is_the_same_space():
    space = {"freeze.depth": {"int": [1, 3]}, "optim.clip_norm": {"choice": [None, 1.0], "when": "freeze.depth > 1"}}
    settings = config(space=space)
    assert parse_config(settings.model_dump(mode="json")) == settings
    assert settings.sweep.space["freeze.depth"] == Dimension(int=(1, 3))
