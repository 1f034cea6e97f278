"""One of two training processes joined by gloo and DDP, without Ray.

    python -m tests.support.gloo_rank RANK WORLD_SIZE FOLDER        # reads configs.json, writes rank-<RANK>.pt

The file holds, per configuration, the gradients of the first update as DDP left them, the scores on val, and the
buffers of the student and of the teacher.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foodseg.config import ExperimentConfig, parse_config
from foodseg.data.batch import read_batches
from foodseg.data.sampler import rank_blocks
from foodseg.train.batch_size import micro_batch_size
from foodseg.train.context import LocalContext
from foodseg.train.loop import Trainer
from foodseg.train.results import Report
from foodseg.train.run import Run, prepare_run


class GlooContext(LocalContext):
    """A `LocalContext` that is one of several."""

    def __init__(self, run: Run, rank: int, world_size: int) -> None:
        super().__init__(run.config, run.manifest, run.reader, run.order)
        self.rank, self.world_size = rank, world_size

    def batches(self, start_step: int, total_steps: int) -> Any:
        blocks = rank_blocks(start_step, total_steps, self._config.train.global_batch, self.world_size)
        size = micro_batch_size(self._config, self.world_size)
        own = blocks[self.rank :: self.world_size]
        return read_batches(
            self._reader, self._order, self._config.augment, self._manifest, own, size, self._config.regions
        )

    def wrap(self, module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        torch.distributed.all_reduce(tensor)
        return tensor

    def report(self, report: Report, checkpoint: str) -> None:
        torch.distributed.barrier()


class Seen(Exception):
    """The gradients are there, and nobody asks for what comes after them."""


def first_gradients(trainer: Trainer, *, to_the_end: bool = True) -> dict[str, torch.Tensor]:
    """Runs the training, or its first update; returns the gradients that the first optimizer step saw."""
    seen: dict[str, torch.Tensor] = {}
    step = trainer.optimizer.step

    def spy(*args: Any, **kwargs: Any) -> Any:
        if not seen:
            seen.update({n: p.grad.clone() for n, p in trainer.student.named_parameters() if p.grad is not None})
        if not to_the_end:
            raise Seen
        return step(*args, **kwargs)

    trainer.optimizer.step = spy  # type: ignore[method-assign]
    with contextlib.suppress(Seen):
        trainer.run()
    return seen


def prepared(config: ExperimentConfig, resume: bool = False) -> tuple[Run, LocalContext]:
    """Returns the run of a configuration, and the context of one process."""
    run = prepare_run(config, resume=resume)
    return run, LocalContext(run.config, run.manifest, run.reader, run.order)


def main(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size)
    results = []
    for tree in json.loads((folder / "configs.json").read_text()):
        if rank == 0:
            run = prepare_run(parse_config(tree), resume=False)
        torch.distributed.barrier()  # else the others might begin the run before it
        if rank != 0:
            run = prepare_run(parse_config(tree), resume=True)
        trainer = Trainer(run.config, run.manifest, run.total_steps, GlooContext(run, rank, world_size))
        gradients = first_gradients(trainer, to_the_end=run.config.train.steps != 1)
        assert trainer.teacher is not None
        buffers = {
            "student": dict(trainer.student.named_buffers()),
            "teacher": dict(trainer.teacher.module.named_buffers()),
        }
        results.append(
            {
                "gradients": gradients,
                "history": [validation.to_json() for validation in trainer.history],
                "buffers": buffers,
            }
        )
    torch.save(results, folder / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
