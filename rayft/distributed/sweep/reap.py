"""Placement groups whose creator died, which Ray keeps until the job ends."""

from __future__ import annotations

import ray
from ray._private.state import state
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group


def reap_placement_groups() -> int:
    """Remove the placement groups of this job whose creating actor is dead; returns how many there were.

    A group of training workers is created by Ray Train's controller. When a trial's process is killed, the
    controller dies with it and its group goes on holding the CPUs, so that no later trial would ever start:
    Ray frees it only when the whole job is over, and Ray Train's own cleaner needs the dashboard (ray#54305).
    """
    job = ray.get_runtime_context().get_job_id()
    found = 0
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(raw)
        # Ray calls the creator of a driver's own groups dead as well.
        by_actor = group.creator_actor_id != ActorID.nil().binary()
        removed = group.state == gcs_pb2.PlacementGroupTableData.REMOVED
        if not removed and by_actor and group.creator_actor_dead and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
            found += 1
    return found
