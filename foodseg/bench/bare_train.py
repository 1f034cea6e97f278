"""The bare PyTorch loop that `foodseg train` is measured against: DDP over gloo, AdamW, nothing else.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \\
        -m foodseg.bench.bare_train --config bench.json --feed memory

The model, the batches and the photometric view are foodseg's; the loop is what one would write by hand: torch's own
resizing, cross entropy and AdamW, each rank's mean loss, no checkpoints, no validation, no log, no averaged weights.
Rank 0 prints one JSON line:
{"ticks": [seconds at which each update took its batch], "loss": the last one}.
"""

import argparse
import contextlib
import json
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from foodseg.bench.feed import Clock, decoded_batches, memory_batches
from foodseg.bench.machine import lower_priority
from foodseg.config import ExperimentConfig, parse_config
from foodseg.data.augment.photometric import jittered_view
from foodseg.data.batch import Batch
from foodseg.data.shards import Manifest, read_manifest
from foodseg.models.build import build_segmenter
from foodseg.predict.predictor import AUTOCAST
from foodseg.train.batch_size import micro_batch_size

PREFETCHED = 4  # batches that the background thread decodes ahead


class BareLoop:
    """Model, optimizer and update of one rank."""

    def __init__(
        self,
        config: ExperimentConfig,
        manifest: Manifest,
        world_size: int,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        torch.manual_seed(config.train.seed)
        self._config = config.train
        self._clip_norm = config.optim.clip_norm
        classes = manifest.class_table
        self._augment, self._ignore_id = config.augment, classes.ignore_id
        self._device = device
        self._mean = torch.tensor(config.model.mean).view(1, 3, 1, 1).to(device)
        self.model = build_segmenter(config.model, len(classes), pretrained=True).to(device)
        if config.train.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._wrapped = DistributedDataParallel(self.model) if world_size > 1 else self.model
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), config.optim.lr, config.optim.betas, weight_decay=config.optim.weight_decay
        )

    def update(self, window: list[Batch]) -> torch.Tensor:
        """Takes the micro-batches of one update, on the device; returns this rank's mean loss."""
        self.model.train()
        if self._config.batch_norm == "frozen":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        dtype = AUTOCAST[self._config.precision]
        labelled = torch.stack([(batch.mask != self._ignore_id).sum() for batch in window]).sum()
        losses = []
        for index, batch in enumerate(window):
            with self._no_sync(index < len(window) - 1):
                with torch.autocast(self._device.type, dtype, enabled=dtype is not None):
                    image = jittered_view(batch.image, batch.extent, self._mean, batch.seed, self._augment)
                    logits = self._wrapped(image).logits
                resized = functional.interpolate(logits.float(), size=batch.mask.shape[-2:], mode="bilinear")
                target = batch.mask.long()
                loss = functional.cross_entropy(resized, target, ignore_index=self._ignore_id, reduction="sum")
                loss = loss / labelled.clamp_min(1)
                loss.backward()
            losses.append(loss.detach())
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return torch.stack(losses).sum()

    def _no_sync(self, skip: bool) -> contextlib.AbstractContextManager[None]:
        if skip and isinstance(self._wrapped, DistributedDataParallel):
            return self._wrapped.no_sync()
        return contextlib.nullcontext()


def prefetched(batches: Iterator[Batch], ahead: int = PREFETCHED) -> Iterator[Batch]:
    """Yields the batches, which a background thread prepares."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(ahead)

    def fill() -> None:
        try:
            for batch in batches:
                ready.put(batch)
            ready.put(None)
        except BaseException as error:  # raised in the consumer
            ready.put(error)

    threading.Thread(target=fill, daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def run_bare(config: ExperimentConfig, feed: str, rank: int, world_size: int) -> tuple[list[float], float]:
    """Trains train.steps updates; returns the clock's ticks and the last mean loss of this rank."""
    assert config.train.steps is not None
    manifest = read_manifest(config.data.uri)
    loop = BareLoop(config, manifest, world_size)
    if feed == "memory":
        batches = memory_batches(config, manifest, rank, world_size, config.train.steps)
    else:
        batches = prefetched(decoded_batches(config, manifest, rank, world_size, config.train.steps))
    per_update = config.train.global_batch // world_size // micro_batch_size(config, world_size)
    clock = Clock()
    watched = clock.watch(batches, per_update)
    for _ in range(config.train.steps):
        loss = loop.update([next(watched) for _ in range(per_update)])
    return clock.ticks, float(loss)


def main() -> None:
    """Runs one rank under torchrun."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="whole configuration as JSON")
    parser.add_argument("--feed", choices=["memory", "decode"], required=True, help="where batches come from")
    parser.add_argument("--niceness", type=int, default=0, help="priority, as that of Ray's workers")
    arguments = parser.parse_args()
    lower_priority(arguments.niceness)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if world_size > 1:
        torch.distributed.init_process_group("gloo")
    ticks, loss = run_bare(parse_config(json.loads(arguments.config.read_text())), arguments.feed, rank, world_size)
    if rank == 0:
        print(json.dumps({"ticks": ticks, "loss": loss}), flush=True)
    if world_size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
