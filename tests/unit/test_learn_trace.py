"""A trace holds the steps that were asked for, in a file that TensorBoard's profile page reads."""

import numpy as np
import pytest
from pyarrow import fs
from small_backbone import save_small_backbone
from tensorflow.tsl.profiler.protobuf import xplane_pb2
from test_learn_step import dataset_of, make_batch, make_config, make_task

from rayft.errors import ConfigError
from rayft.learn.loop import Plan, train_epochs
from rayft.learn.trace import NO_TRACE, STEP_EVENT, StepTrace, check_window
from rayft.storage import Storage

PLAN = Plan(5, 2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_small_backbone(tmp_path_factory.mktemp("model"))


def train(backbone, trace=NO_TRACE, plan=PLAN):
    task = make_task(make_config(backbone))
    batches = [make_batch(step=step, seed=step) for step in range(plan.start_step, plan.total_steps)]
    seen = list(train_epochs(task, dataset_of(batches), dict, plan, trace=trace))
    trace.close()
    return np.concatenate([progress.losses for progress in seen])


def traced_steps(folder):
    """Return the numbers of the steps in the one trace of a folder."""
    (file,) = folder.glob("plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
    found = set()
    for plane in space.planes:
        stats = {key: value.name for key, value in plane.stat_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                if plane.event_metadata[event.metadata_id].name == STEP_EVENT:
                    found |= {stat.int64_value for stat in event.stats if stats[stat.metadata_id] == "step_num"}
    return found


def test_the_steps_asked_for_are_traced_and_the_losses_are_those_without(backbone, tmp_path):
    plain = train(backbone)
    told = []
    traced = train(backbone, StepTrace(3, 7, Storage.open(tmp_path / "rank0"), told.append))
    np.testing.assert_array_equal(traced, plain)
    assert traced_steps(tmp_path / "rank0") == {4, 5, 6, 7}
    assert told == [str(tmp_path / "rank0")]


def test_a_trace_that_the_run_breaks_off_is_kept_on_remote_storage_as_well(backbone, tmp_path):
    remote = Storage(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "rank0", "bucket://rank0")
    told = []
    train(backbone, StepTrace(8, 20, remote, told.append))
    assert traced_steps(tmp_path / "rank0") == {9, 10}
    assert told == ["bucket://rank0"]


def test_a_run_that_goes_on_behind_the_window_traces_nothing(backbone, tmp_path):
    told = []
    train(backbone, StepTrace(2, 4, Storage.open(tmp_path / "rank0"), told.append), Plan(5, 2, start_step=5))
    assert told == list(tmp_path.iterdir()) == []


def test_steps_that_the_run_does_not_have_are_refused():
    check_window(None, 10)
    check_window((0, 10), 10)
    with pytest.raises(ConfigError, match=r"train\.profile is \[5, 11\]; the run has 10 steps"):
        check_window((5, 11), 10)
