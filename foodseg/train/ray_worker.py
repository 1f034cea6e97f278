"""One worker of a training run on Ray Train.

Ray unpickles the worker's function in its controller too. So the loop, and with it timm, is imported inside.
"""

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypedDict, TypeVar

import ray.train
import ray.train.collective
import torch
from ray.train.torch import get_device, prepare_model
from torch import nn

from foodseg import storage
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.cluster.ray_logs import RelayHandler
from foodseg.cluster.ray_session import expected_failure
from foodseg.config import ExperimentConfig
from foodseg.data.batch import AnyBatch
from foodseg.data.ray_batches import rank_batches
from foodseg.data.shards import Manifest
from foodseg.train.batch_size import micro_batch_size
from foodseg.train.batch_timeout import NO_PROGRESS_SECONDS, within
from foodseg.train.context import OnReport, TrainContext
from foodseg.train.results import Report, TrainingResult

T = TypeVar("T")


class RayContext:
    """One worker of a Ray Train worker group."""

    def __init__(
        self,
        config: ExperimentConfig,
        manifest: Manifest,
        timeout: float = NO_PROGRESS_SECONDS,
        first: float = NO_PROGRESS_SECONDS,
    ) -> None:
        """`timeout`: seconds that it waits for a batch before it fails; `first`: for the first one."""
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = get_device()
        self._config, self._manifest, self._timeout, self._first = config, manifest, timeout, first

    def batches(self, start_step: int, total_steps: int) -> Iterator[AnyBatch]:
        size = micro_batch_size(self._config, self.world_size)
        hold = self._config.train.global_batch // self.world_size // size
        split = ray.train.get_dataset_shard("train")
        watched = partial(within, seconds=self._timeout, first=self._first)
        return rank_batches(split, self._config, self._manifest, size, hold, watched)

    def wrap(self, module: nn.Module) -> nn.Module:
        return prepare_model(module, move_to_device=False)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def broadcast(self, value: T) -> T:
        return ray.train.collective.broadcast_from_rank_zero(value)

    def report(self, report: Report, checkpoint: str) -> None:
        ray.train.report({**report.to_json(), "checkpoint_uri": checkpoint})

    def restore(self) -> str | None:
        return self.broadcast(newest_checkpoint(self._config.run.uri) if self.rank == 0 else None)

    def stop_requested(self) -> bool:
        return False  # Ray ends workers itself; at most train.checkpoint_every steps are lost


class ReportsTo(ray.train.UserCallback):
    """Passes on what rank 0 reports; runs in Ray's controller."""

    def __init__(self, on_report: OnReport) -> None:
        self._on_report = on_report

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called once all ranks have reported."""
        self._on_report(Report.from_json(metrics[0]))


BuildContext = Callable[[ExperimentConfig, Manifest], TrainContext]
"""Makes the loop's context in a worker."""


class LoopConfig(TypedDict):
    """What a worker gets: the checked configuration, the training data, its length, and where its log goes."""

    config: ExperimentConfig
    manifest: Manifest
    total_steps: int
    relay: str


def train_rank(loop_config: LoopConfig, build_context: BuildContext) -> TrainingResult:
    """Runs the loop in one worker.

    Raises:
        UserError: a user's mistake; `ray_failures.RefuseAtOnce` then ends the other workers too.
    """
    from foodseg.train.loop import train

    logger = logging.getLogger("foodseg")
    logger.setLevel(logging.INFO)
    logger.handlers = [RelayHandler(loop_config["relay"])]
    config = loop_config["config"]
    # Ray counts its CPUs, and those of the processes that decode for it are among them
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1")) - config.decoders))
    # the driver has reached these: if they are away when a worker starts, the address is not wrong
    storage.expect(config.run.uri, config.data.uri, *(source.uri for source in config.data.uris))
    try:
        return train(
            config, loop_config["manifest"], loop_config["total_steps"], build_context(config, loop_config["manifest"])
        )
    except Exception as error:
        # the cause of an error is lost on its way to the controller
        raise expected_failure(error) or error from None
