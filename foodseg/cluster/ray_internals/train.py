"""What foodseg takes from the private parts of Ray Train: the controller's states, policies, callbacks and exceptions.

Ray Train has no public way to choose the number of workers, nor to hear what its controller does. The classes are
Ray's own, to be derived from or compared with.
"""

from typing import Any

import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    CollectiveTimeoutError,
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckTimeoutError,
)
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
    "CollectiveTimeoutError",
    "ControllerCallback",
    "ElasticScalingPolicy",
    "InitializingState",
    "InsufficientClusterResourcesError",
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
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
    "WorkerHealthCheckTimeoutError",
    "worker_resources",
]


class TidyTrainer(TorchTrainer):
    """A TorchTrainer without Ray's watching process: the caller runs `core.release_lost_groups` instead."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]


def worker_resources(scaling: ray.train.ScalingConfig) -> dict[str, float]:
    """Returns the resources of one worker, with Ray Train's defaults for what `scaling` does not say."""
    resources: dict[str, float] = scaling._resources_per_worker_not_none
    return resources
