"""What a training that was ended from outside leaves reserved.

Ray gives a placement group back with its job, not with the actor that asked for it. So a sweep that stops a trial would
never see the CPUs of its workers again. Ray Train starts a process beside every training that watches for this, but
that process asks the dashboard: a Ray that foodseg starts has none, and where several clusters run on one machine it
cannot tell which to ask. So foodseg looks itself, in the table of all groups of the cluster.

This builds on Ray's internals, as there is no public way: the pinned version of Ray and
`tests/integration/test_ray_sweep.py` stand for it.
"""

from typing import Any

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group


class TidyTrainer(TorchTrainer):
    """A TorchTrainer without Ray's watching process: who runs one calls `release_lost_groups`."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def release_lost_groups() -> int:
    """Gives back what actors of this job reserved that are dead; returns how many groups that were."""
    job, released = ray.get_runtime_context().get_job_id(), 0
    for entry in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        made_by_actor = bool(group.creator_actor_id) and not ray.ActorID(group.creator_actor_id).is_nil()
        lost = made_by_actor and group.creator_actor_dead and group.creator_job_id.hex() == job
        if lost and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            released += 1
    return released
