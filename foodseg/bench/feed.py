"""Batches in memory, and the clock: the same for foodseg and for the bare loop, so that only the loops differ."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from foodseg.config import ExperimentConfig
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.batch import Batch
from foodseg.data.decode import encode_rows, make_batch_arrays
from foodseg.data.reader import RowReader
from foodseg.data.sampler import rank_blocks
from foodseg.data.shards import Manifest
from foodseg.data.training_rows import training_order
from foodseg.train.batch_size import micro_batch_size

T = TypeVar("T")
MEMORY_STEPS = 4  # updates whose batches are held in memory


def decoded_batches(
    config: ExperimentConfig, manifest: Manifest, rank: int, world_size: int, steps: int
) -> Iterator[Batch]:
    """Yields the rank's micro-batches of the first `steps` updates; all encoded rows are read before the first."""
    single_threaded_opencv()
    reader = RowReader(config.data.uri, manifest, config.data.train_splits)
    order = training_order(
        reader, config.data, config.train.seed, config.train.global_batch, paste=config.augment.paste
    )
    blocks = rank_blocks(0, steps, config.train.global_batch, world_size)[rank::world_size]
    rows = encode_rows(reader, order, [part for block in blocks for part in block])
    size = micro_batch_size(config, world_size)
    for start in range(0, rows.num_rows, size):
        yield Batch.from_arrays(make_batch_arrays(rows.slice(start, size), config.augment, manifest))


def memory_batches(
    config: ExperimentConfig, manifest: Manifest, rank: int, world_size: int, steps: int
) -> Iterator[Batch]:
    """Yields the batches of the first MEMORY_STEPS updates repeatedly, with the expected positions."""
    held = list(decoded_batches(config, manifest, rank, world_size, MEMORY_STEPS))
    share = config.train.global_batch // world_size
    starts = [
        step * config.train.global_batch + rank * share + offset
        for step in range(steps)
        for offset in range(0, share, micro_batch_size(config, world_size))
    ]
    for start, batch in zip(starts, itertools.cycle(held), strict=False):
        yield dataclasses.replace(batch, position=torch.arange(start, start + len(batch)))


class Clock:
    """Notes when an update takes its first batch; by then the previous update is done."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def watch(self, batches: Iterator[T], batches_per_update: int) -> Iterator[T]:
        """Yields the batches, noting the time at which every `batches_per_update`-th one is there."""
        for index, batch in enumerate(batches):
            if index % batches_per_update == 0:
                self.ticks.append(time.perf_counter())
            yield batch


def rate_between(ticks: Sequence[float], warmup: int, global_batch: int) -> float:
    """Returns images per second from tick number `warmup` to the last one."""
    updates = len(ticks) - 1 - warmup
    assert updates > 0, (len(ticks), warmup)
    return updates * global_batch / (ticks[-1] - ticks[warmup])
