"""The training loop's interface to its environment, and the implementation for one process without Ray.

`LocalContext` is one process; `RayContext` (in `ray_worker.py`) is one of several workers. Both pass the same tests.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.batch import AnyBatch, read_batches
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder, rank_blocks
from foodseg.data.shards import Manifest
from foodseg.predict.device import pick_device
from foodseg.train.batch_size import micro_batch_size
from foodseg.train.results import Report

T = TypeVar("T")
OnReport = Callable[[Report], None]
"""Called for every checkpoint, as `TrainContext.report` is."""
_log = logging.getLogger(__name__)


class TrainContext(Protocol):
    """The loop's environment: one of `world_size` processes that run the same loop in step."""

    rank: int
    world_size: int
    device: torch.device

    def batches(self, start_step: int, total_steps: int) -> Iterator[AnyBatch]:
        """Yields this rank's micro-batches of the updates start_step..total_steps-1, in order, each exactly once."""
        ...

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns the module with its gradients averaged over the ranks."""
        ...

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the sum over the ranks; all ranks call it."""
        ...

    def broadcast(self, value: T) -> T:
        """Returns rank 0's value; all ranks call it."""
        ...

    def report(self, report: Report, checkpoint: str) -> None:
        """Announces a written checkpoint; all ranks call it."""
        ...

    def restore(self) -> str | None:
        """Returns the checkpoint to resume from (the same on every rank), or None at the start of a run."""
        ...

    def stop_requested(self) -> bool:
        """Whether the run should write a checkpoint and end; the same answer on every rank."""
        ...


@torch.no_grad()
def share_buffers(module: nn.Module, context: TrainContext) -> None:
    """Gives all ranks rank 0's floating buffers, in one message; all ranks call it.

    With live BatchNorm each rank has the running statistics of its own images.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if context.world_size == 1 or not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    flat = context.all_reduce(flat if context.rank == 0 else torch.zeros_like(flat))
    for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


class OneProcess:
    """The part of a `TrainContext` that is the same for every process that trains alone."""

    rank = 0
    world_size = 1

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def broadcast(self, value: T) -> T:
        return value


class LocalContext(OneProcess):
    """One process without Ray; within `with`, Ctrl-C, SIGTERM and SIGHUP end the run after a last checkpoint."""

    def __init__(
        self,
        config: ExperimentConfig,
        manifest: Manifest,
        reader: RowReader,
        order: TrainingOrder,
        on_report: OnReport | None = None,
    ) -> None:
        self.device = pick_device("gpu" if config.scaling.use_gpu else "cpu")
        self._on_report = on_report
        self._config, self._manifest, self._reader, self._order = config, manifest, reader, order
        self._stop = threading.Event()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "LocalContext":
        """From here on the first Ctrl-C, SIGTERM or SIGHUP only requests a stop."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_IGN:  # as `nohup` sets it
                    continue
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def batches(self, start_step: int, total_steps: int) -> Iterator[AnyBatch]:
        single_threaded_opencv()
        blocks = rank_blocks(start_step, total_steps, self._config.train.global_batch, world_size=1)
        size = micro_batch_size(self._config, world_size=1)
        config = self._config
        return read_batches(self._reader, self._order, config.augment, self._manifest, blocks, size, config.regions)

    def report(self, report: Report, checkpoint: str) -> None:
        if self._on_report is not None:  # the checkpoint is on storage already
            self._on_report(report)

    def restore(self) -> str | None:
        return newest_checkpoint(self._config.run.uri)

    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        _log.warning("stopping after a last checkpoint; press Ctrl-C again to stop at once")
        self._stop.set()
