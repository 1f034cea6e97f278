"""What there is to score, in parts that any process can count; counted here, one after the other.

scored = merge_scored(score_here(ScoringJob(reader, chunks(rows), build, space, "auto")))
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from foodseg.data.reader import RowReader
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.scoring import Labeller, Scored, score_rows
from foodseg.predict.device import Device, device_name, pick_device
from foodseg.progress import Progress

Build = Callable[[Device | torch.device], Labeller]
"""Makes a labeller in the process that scores."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringJob:
    """What is scored: `parts` are lists of row numbers; `device` is None for a labeller that computes nothing."""

    reader: RowReader
    parts: list[list[int]]
    build: Build
    space: CommonSpace
    device: Device | torch.device | None


def score_here(job: ScoringJob) -> Iterator[Scored]:
    """Yields the counts of each part, counted in this process."""
    with Progress("scoring images", sum(map(len, job.parts))) as progress:
        if job.device is not None:
            device = job.device if isinstance(job.device, torch.device) else pick_device(job.device)
            _log.info("scoring in this process on %s", device_name(device))
        labeller = job.build(job.device or "cpu")
        for part in job.parts:
            yield score_rows(job.reader, part, labeller, job.space)
            progress.advance(len(part))
