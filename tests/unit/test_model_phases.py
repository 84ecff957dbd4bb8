"""Which blocks are frozen when."""

import pytest

from rayft.config import FreezeConfig, parse_config
from rayft.errors import ConfigError, ModelError
from rayft.model.blocks import Block
from rayft.model.phases import list_phases

BLOCKS = tuple(Block(name, ()) for name in ("stem", "block1", "block2", "top"))


def phases(epochs=20, **freeze):
    return [(phase.first_epoch, phase.depth) for phase in list_phases(FreezeConfig(**freeze), BLOCKS, epochs)]


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ({}, [(0, 4)]),
        ({"depth": 1}, [(0, 1)]),
        ({"depth": 1, "head_first_epochs": 3}, [(0, 4), (3, 1)]),
        ({"depth": 1, "gradual": 2}, [(0, 4), (2, 3), (4, 2), (6, 1)]),
        ({"depth": "block1", "gradual": 1, "head_first_epochs": 5}, [(0, 4), (5, 3), (6, 2)]),
        (
            {"schedule": [{"epoch": 0, "depth": "all"}, {"epoch": 2, "depth": 0.5}, {"epoch": 9, "depth": 0}]},
            [(0, 4), (2, 2), (9, 0)],
        ),
    ],
)
def test_shorthands_and_schedule_become_phases(freeze, expected):
    assert phases(**freeze) == expected


def test_the_head_alone_learns_ten_times_as_fast_unless_told():
    freeze = FreezeConfig(schedule=({"epoch": 0, "depth": "all"}, {"epoch": 1, "depth": 2}))
    assert [phase.rate for phase in list_phases(freeze, BLOCKS, 5)] == pytest.approx([10, 1])
    told = FreezeConfig(
        schedule=({"epoch": 0, "depth": "all", "learning_rate": 3}, {"epoch": 1, "depth": 2, "learning_rate": 0.5})
    )
    assert [phase.rate for phase in list_phases(told, BLOCKS, 5)] == [3, 0.5]
    assert [phase.rate for phase in list_phases(FreezeConfig(), BLOCKS, 5)] == [1]


def test_batch_norm_is_set_per_phase():
    freeze = FreezeConfig(
        batch_norm="frozen",
        schedule=({"epoch": 0, "depth": 2}, {"epoch": 1, "depth": 0, "batch_norm": "trainable"}),
    )
    assert [phase.batch_norm for phase in list_phases(freeze, BLOCKS, 5)] == ["frozen", "trainable"]


@pytest.mark.parametrize(
    ("freeze", "problem"),
    [
        ({"schedule": [{"epoch": 0, "depth": 1}, {"epoch": 2, "depth": "block2"}]}, "goes from depth 1 to 3"),
        ({"depth": 0, "gradual": 6}, "begins after epoch 24; train.epochs is 20"),
    ],
)
def test_phases_that_freeze_again_or_never_come_are_refused(freeze, problem):
    with pytest.raises(ModelError, match=problem):
        phases(**freeze)


@pytest.mark.parametrize(
    ("freeze", "parts"),
    [
        ({"head_first_epochs": 2}, ["head_first_epochs is 2", "depth is all"]),
        ({"schedule": [{"epoch": 1, "depth": 0}]}, ["freeze: schedule has the epochs [1]"]),
        ({"schedule": [{"epoch": 0, "depth": 1}, {"epoch": 0, "depth": 0}]}, ["epochs [0, 0]"]),
        ({"depth": 2, "schedule": [{"epoch": 0, "depth": 1}]}, ["depth is 2", "ends with 1"]),
        ({"gradual": 1, "depth": 0, "schedule": [{"epoch": 0, "depth": 0}]}, ["give the schedule or the shorthands"]),
        ({"schedule": [{"epoch": 0, "depth": 1, "rate": 2}]}, ["freeze.schedule[0].rate: unknown key"]),
        ({"schedule": [{"epoch": -1, "depth": 1}]}, ["freeze.schedule[0].epoch: got -1"]),
        ({"schedule": [3]}, ["freeze.schedule[0]: got 3; it is a section with the fields epoch, depth"]),
        ({"schedule": 3}, ["freeze.schedule: got 3; it is a list of sections with the fields epoch, depth"]),
        ({"depth": 0, "head_first_epochs": 10}, ["begins after epoch 10, train.epochs is 10"]),
    ],
)
def test_phases_that_make_no_sense_are_refused(freeze, parts):
    with pytest.raises(ConfigError) as caught:
        parse_config({"data": {"source": "x"}, "freeze": freeze})
    assert all(part in caught.value.args[0] for part in parts), caught.value.args[0]


def test_the_resolved_config_shows_the_last_depth_and_a_rate_that_suits_it():
    tree = {"data": {"source": "x"}, "freeze": {"schedule": [{"epoch": 0, "depth": "all"}, {"epoch": 1, "depth": 2}]}}
    config = parse_config(tree)
    assert (config.freeze.depth, config.optim.learning_rate) == (2, 3e-4)
    assert parse_config(config.model_dump(mode="json")) == config
