"""How a training run grows and shrinks with its cluster, and how the user is informed.

Ray Train restarts an elastic run with as many workers as the cluster has capacity for. It does not know that the global
batch must be split evenly over them, nor that reading and decoding need CPUs: where workers can fill a cluster, Ray
Data is left without a CPU, and the run stalls. `ElasticWorkers` adds both constraints. It overrides private
methods of Ray's policy, as there is no public way to choose the number of workers:
`tests/integration/test_ray_internals.py` checks that they still exist, and `tests/integration/test_cluster.py` that
they still work.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray.train

from foodseg.cluster.placement import usable_workers
from foodseg.cluster.ray_internals.train import (
    ControllerCallback,
    ElasticScalingPolicy,
    InitializingState,
    NoopDecision,
    ReschedulingState,
    ResizingState,
    RestartingState,
    RunningState,
    ScalingDecision,
    SchedulingState,
    TidyTrainer,
    TrainControllerState,
    worker_resources,
)
from foodseg.cluster.ray_logs import send_line
from foodseg.cluster.ray_session import living_nodes, nodes_may_come

LOOK_SECONDS = 10  # between two looks at the nodes while all is well
PAUSE_SECONDS = 0.5  # between two looks at a cluster without capacity: Ray's controller would not pause
REPEAT_SECONDS = 30  # the message about waiting for nodes is repeated this often


class ElasticWorkers(ElasticScalingPolicy):
    """Ray's elastic policy, kept to `sizes` that leave `cpus_for_data` CPUs free."""

    def __init__(self, scaling_config: ray.train.ScalingConfig, sizes: Sequence[int], cpus_for_data: int) -> None:
        super().__init__(scaling_config)
        self._sizes, self._cpus_for_data = tuple(sizes), cpus_for_data
        self._worker = worker_resources(scaling_config)
        self._looked_at = float("-inf")

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Called repeatedly until there is capacity for a worker group."""
        self._looked_at = float("-inf")  # what was seen before the loss does not count
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(PAUSE_SECONDS)
        return decision

    def _get_num_workers_for_resource_request(self) -> int:
        self._look()
        # an autoscaler starts nodes for this request; Ray Data does not use those nodes, whether workers run there or
        # not
        return max(self._sizes) if self._may_ask else self._usable() or min(self._sizes)

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        self._look()
        # what was reserved is up to 20 seconds old, and may be on nodes that are gone
        living = {node: resources for node, resources in reserved_resources.items() if node in self._nodes}
        possible = super()._count_possible_workers(living)
        if not self._may_ask:
            possible = min(possible, self._usable())
        return max((size for size in self._sizes if size <= possible), default=0)

    def _look(self) -> None:
        """Looks at the cluster, but not at each of the four times a second at which Ray's controller asks."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at, self._nodes = now, living_nodes()
            # nodes with a GPU, say: those that the data has no use for
            self._may_ask = nodes_may_come() and any(self._worker[name] for name in self._worker if name != "CPU")

    def _usable(self) -> int:
        return usable_workers(list(self._nodes.values()), self._worker, self._sizes, self._cpus_for_data)


class ElasticTrainer(TidyTrainer):
    """A trainer whose number of workers `policy` decides."""

    def __init__(self, *args: Any, policy: ElasticWorkers, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._policy = policy

    def _initialize_and_run_controller(self, **parts: Any) -> ray.train.Result:
        return super()._initialize_and_run_controller(**{**parts, "scaling_policy": self._policy})


class Announcer(ControllerCallback):
    """Logs why a run restarts, with how many workers, and what it waits for; runs in Ray's controller."""

    def __init__(self, relay: str, wanted: str, workers: int | None) -> None:
        """`wanted`: the least resources that training needs, in words; `workers`: their number, None if it varies."""
        self._relay, self._wanted, self._workers = relay, wanted, workers
        self._said_at: float | None = None

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        now = time.monotonic()
        if self._said_at is None or isinstance(current_state, RunningState):
            self._said_at = now
        if isinstance(current_state, RestartingState) and not isinstance(previous_state, RestartingState):
            detail = _last_words(current_state.training_failed_error)
            self._say(logging.WARNING, f"workers were lost ({detail}); resuming from the newest checkpoint")
        elif isinstance(current_state, InitializingState | RestartingState | ReschedulingState):
            if now - self._said_at >= REPEAT_SECONDS:
                self._said_at = now
                self._say(logging.WARNING, f"the cluster has no room for {self._wanted}: waiting for nodes")
        elif isinstance(current_state, ResizingState):
            self._say(logging.INFO, "the cluster has changed: resuming from the newest checkpoint")
        elif isinstance(current_state, SchedulingState):
            workers = current_state.scaling_decision.num_workers
            if workers != self._workers:
                self._say(logging.INFO, f"training on {workers} worker{'s' if workers > 1 else ''}")
            self._workers = workers

    def _say(self, level: int, message: str) -> None:
        send_line(self._relay, level, message)


def _last_words(error: BaseException) -> str:
    """The reasons why the workers died, in one line."""
    causes = getattr(error, "worker_failures", {}).values()
    lines = {str(cause).strip().splitlines()[-1].strip().partition(". ")[0] for cause in causes if str(cause).strip()}
    return "; ".join(sorted(lines))[:300] or type(error).__name__
