from types import SimpleNamespace

import pytest

from rayft.config import ServeConfig
from rayft.distributed.devices import DevicePlan
from rayft.serve.replica import plan_replica
from rayft.serve.scale import PICTURES, ScaleByPictures


@pytest.mark.parametrize(
    ("held", "wanted"), [({"a": 30.0, "b": 66.0}, 3.0), ({"a": 0.0}, 0.0), ({}, 2)], ids=["busy", "idle", "unknown"]
)
def test_replicas_follow_the_pictures_that_they_hold(held, wanted):
    metrics = {PICTURES: held} if held else {}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=2)
    assert ScaleByPictures(target=32)(context) == (wanted, {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, DevicePlan(1, 3, "RING", False)),
        ({"cpus_per_replica": 2}, DevicePlan(1, 5, "RING", False)),
        ({"cpus_per_replica": 2.9, "batching": {"passes": 1}}, DevicePlan(2, 4, "RING", False)),
        ({"cpus_per_replica": 8}, DevicePlan(2, 13, "RING", False)),
        ({"cpus_per_replica": 8, "gpus_per_replica": 0.5}, DevicePlan(8, 10, "RING", True)),
    ],
)
def test_passes_of_a_replica_divide_its_cpus(given, expected):
    assert plan_replica(ServeConfig.model_validate({"models": ["zoo"], **given})) == expected


@pytest.mark.parametrize("field", ["port", "grpc_port"])
def test_replicas_of_a_cluster_need_a_port_that_is_known(field):
    with pytest.raises(ValueError, match=f"{field} is 0 with an address"):
        ServeConfig.model_validate({"models": ["zoo"], "address": "10.0.0.1:6379", field: 0})
    ServeConfig.model_validate({"models": ["zoo"], field: 0})
