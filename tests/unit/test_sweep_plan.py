import pytest

from rayft.config import parse_config
from rayft.errors import ClusterError, ConfigError
from rayft.sweep.plan import SMALL_TRIAL, plan_trials

TWO_CPUS = [{"CPU": 2.0, "memory": 1e9}]


def config(sweep=None, **cluster):
    return parse_config({"data": {"source": "x"}, "train": {"epochs": 10}, "cluster": cluster, "sweep": sweep or {}})


def test_one_worker_means_light_trials_on_every_cpu():
    plan = plan_trials(config(), TWO_CPUS, train_size=10**9)
    assert (plan.kind, plan.slots, plan.resources, plan.workers) == ("light", 2, {"CPU": 1.0}, 1)


def test_small_trials_are_light_and_large_ones_distributed():
    small = plan_trials(config(workers=2), TWO_CPUS, train_size=SMALL_TRIAL // 10)
    large = plan_trials(config(workers=2), TWO_CPUS, train_size=SMALL_TRIAL // 10 + 1)
    assert (small.kind, large.kind) == ("light", "distributed")
    assert "2 workers" in small.reason


def test_a_distributed_trial_leaves_both_cpus_to_its_workers():
    plan = plan_trials(config({"trial": "distributed"}, workers=2), TWO_CPUS, train_size=10)
    assert plan.slots == 1
    assert plan.resources.get("CPU", 0) == 0
    assert plan.resources.keys() <= {"memory"}


def test_slots_count_whole_workers_on_each_node():
    # 3 CPUs hold one worker of 2, not one and a half.
    nodes = [{"CPU": 3.0}, {"CPU": 3.0}, {"CPU": 5.0}]
    plan = plan_trials(config({"trial": "distributed"}, workers=2, cpus_per_worker=2), nodes, train_size=10)
    assert plan.slots == 2


def test_fractions_of_a_cpu_are_counted_exactly():
    plan = plan_trials(config(cpus_per_worker=0.3), [{"CPU": 0.9}], train_size=10)
    assert plan.slots == 3


def test_gpus_limit_the_slots_too():
    plan = plan_trials(config(gpus_per_worker=0.5), [{"CPU": 8.0, "GPU": 1.0}], train_size=10)
    assert plan.slots == 2
    assert plan.resources == {"CPU": 1.0, "GPU": 0.5}


def test_the_user_and_the_number_of_trials_limit_the_slots():
    nodes = [{"CPU": 8.0}]
    assert plan_trials(config({"max_concurrent": 3}), nodes, train_size=10).slots == 3
    assert plan_trials(config({"trials": 2}), nodes, train_size=10).slots == 2


def test_a_trial_that_fits_nowhere_is_refused():
    with pytest.raises(ClusterError, match="2 x 2 CPU"):
        plan_trials(config({"trial": "distributed"}, workers=2, cpus_per_worker=2), TWO_CPUS, train_size=10)


def test_pbt_needs_light_trials():
    with pytest.raises(ConfigError, match="pbt"):
        plan_trials(config({"trial": "distributed", "scheduler": "pbt"}), TWO_CPUS, train_size=10)
