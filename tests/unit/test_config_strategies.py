import pytest

from rayft.config import parse_config
from rayft.config.train import SCHEDULE_OPTIONS, ScheduleConfig
from rayft.errors import ConfigError
from rayft.learn.schedule import SHAPES


def parse(**changes):
    tree = {"data": {"source": "x"}, "freeze": {"depth": 0}}
    for key, value in changes.items():
        section, _, field = key.partition("__")
        tree.setdefault(section, {})[field] = value
    return parse_config(tree)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"train__label_smoothing": 0.1, "train__loss": "mine:loss"},
            "label_smoothing is 0.1 with the own loss mine:loss",
        ),
        ({"optim__schedule_options": {"gamma": 0.5}}, "gamma is 0.5, which the schedule cosine does not use"),
        (
            {"optim__schedule": "step", "optim__schedule_options": {"patience": 5}},
            "patience is 5, which the schedule step does not use; it uses gamma, milestones",
        ),
        ({"train__ema": {"decay": 0.9}, "train__swa": {"start_fraction": 0.5}}, "only one average"),
        ({"train__early_stopping": {"min_delta": 0.1}}, "without early_stopping.patience"),
        ({"train__accumulate_steps": 33}, "accumulate_steps is 33, cluster.workers is 1, data.global_batch_size is 32"),
        ({"train__accumulate_steps": 16, "cluster__workers": 3}, "every worker needs at least one example"),
        ({"optim__layer_decay": 0.5, "freeze__depth": "all"}, "optim.layer_decay is 0.5, yet no block"),
        ({"optim__head_multiplier": 2, "freeze__depth": "all"}, "optim.head_multiplier is 2"),
        ({"train__l2_sp": {"alpha": 0.1}, "freeze__depth": "all"}, "train.l2_sp.alpha is 0.1, yet no block"),
        ({"train__l2_sp": {"alpha": 0.1}, "model__weights": "none"}, "no pretrained weights"),
        ({"train__l2_sp": {"alpha": 0.1}, "optim__weight_decay": 0.1}, "optim.weight_decay is 0.1"),
        ({"optim__layer_decay": 0}, "optim.layer_decay: got 0; allowed: a number above 0, up to 1"),
        ({"optim__sam": {"rho": -1}}, "optim.sam.rho: got -1;"),
        ({"train__ema": {"decay": 1}}, "train.ema.decay: got 1;"),
    ],
)
def test_nonsense_is_refused_with_its_value(changes, says):
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    assert says in caught.value.args[0]
    assert len(caught.value.args[0].splitlines()) == 1


def test_every_schedule_has_a_shape_and_every_option_a_schedule():
    assert set(SHAPES) == set(SCHEDULE_OPTIONS)
    assert {option for options in SCHEDULE_OPTIONS.values() for option in options} == set(ScheduleConfig.model_fields)


def test_strategies_are_off_unless_asked_for():
    config = parse()
    assert (config.optim.layer_decay, config.optim.head_multiplier, config.optim.sam.rho) == (1, 1, 0)
    assert (config.train.accumulate_steps, config.train.ema.decay, config.train.swa.start_fraction) == (1, 0, 1)
    assert config.train.early_stopping.patience is None
