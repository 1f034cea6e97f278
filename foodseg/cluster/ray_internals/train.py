"""What foodseg takes from the private parts of Ray Train: the controller's states, policies, callbacks and exceptions.

Ray Train has no public way to choose the number of workers, nor to hear what its controller does. The policy and the
callback are imported with this module because classes of ours are derived from them, and the states and decisions
because `isinstance` compares with them (`train/ray_elastic.py`). Everything else that is private is imported where a
function runs, so that what has moved breaks that function and its test alone.
"""

from typing import Any

import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    ResizingState,
    RestartingState,
    RunningState,
    SchedulingState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

__all__ = [
    "ControllerCallback",
    "ElasticScalingPolicy",
    "InitializingState",
    "NoopDecision",
    "ReschedulingState",
    "ResizeDecision",
    "ResizingState",
    "RestartingState",
    "RunningState",
    "ScalingDecision",
    "SchedulingState",
    "TidyTrainer",
    "TrainControllerState",
    "lost_worker_errors",
    "worker_resources",
]


class TidyTrainer(TorchTrainer):
    """A TorchTrainer without Ray's watching process: the caller runs `core.release_lost_groups` instead."""

    def _create_default_callbacks(self) -> list[Any]:
        from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def worker_resources(scaling: ray.train.ScalingConfig) -> dict[str, float]:
    """Returns the resources of one worker, with Ray Train's defaults for what `scaling` does not say."""
    resources: dict[str, float] = scaling._resources_per_worker_not_none
    return resources


def lost_worker_errors() -> tuple[type[Exception], ...]:
    """Returns the classes of the errors of a worker group that cannot start, or stops answering."""
    from ray.train.v2._internal.exceptions import (
        CollectiveTimeoutError,
        InsufficientClusterResourcesError,
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
        WorkerHealthCheckTimeoutError,
    )

    return (
        CollectiveTimeoutError,
        InsufficientClusterResourcesError,
        WorkerGroupStartupFailedError,
        WorkerGroupStartupTimeoutError,
        WorkerHealthCheckTimeoutError,
    )
