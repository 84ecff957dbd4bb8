from types import SimpleNamespace

import pytest

from rayft.serve.scale import PICTURES, ScaleByPictures


@pytest.mark.parametrize(
    ("held", "wanted"), [({"a": 30.0, "b": 66.0}, 3.0), ({"a": 0.0}, 0.0), ({}, 2)], ids=["busy", "idle", "unknown"]
)
def test_replicas_follow_the_pictures_that_they_hold(held, wanted):
    metrics = {PICTURES: held} if held else {}
    context = SimpleNamespace(aggregated_metrics=metrics, target_num_replicas=2)
    assert ScaleByPictures(target=32)(context) == (wanted, {})
