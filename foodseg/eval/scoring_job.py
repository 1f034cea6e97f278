"""What there is to score, in parts that any process can count; counted here, one after the other.

scored = merge_scored(score_here(ScoringJob(reader, reader.by_row_group(rows), build, space, "auto")))
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from foodseg.data.read_ahead import read_ahead
from foodseg.data.reader import RowReader
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.scoring import LabelledRow, Labeller, Scored, chunks, score_table
from foodseg.predict.device import Device, device_name, pick_device
from foodseg.progress import Progress

Build = Callable[[Device | torch.device], Labeller]
"""Makes a labeller in the process that scores."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoringJob:
    """What is scored: `parts` are lists of row numbers, each of one row group, which is then fetched once.

    `device` is None for a labeller that computes nothing.
    """

    reader: RowReader
    parts: list[list[int]]
    build: Build
    space: CommonSpace
    device: Device | torch.device | None

    def for_workers(self, workers: int) -> "ScoringJob":
        """Returns the job with parts cut smaller, where a small split has fewer row groups than there are workers."""
        rows = sum(map(len, self.parts))
        if len(self.parts) >= workers or not rows:
            return self
        size = -(-rows // workers)
        return replace(self, parts=[part for whole in self.parts for part in chunks(whole, size)])


def score_here(job: ScoringJob) -> Iterator[Scored]:
    """Yields the counts of each part, counted in this process."""
    with Progress("scoring images", sum(map(len, job.parts))) as progress:
        if job.device is not None:
            device = job.device if isinstance(job.device, torch.device) else pick_device(job.device)
            _log.info("scoring in this process on %s", device_name(device))
        labeller = job.build(job.device or "cpu")
        tables = read_ahead(lambda part: job.reader.take(part, LabelledRow.columns()), job.parts)
        for part, table in zip(job.parts, tables, strict=True):
            yield score_table(table, labeller, job.space)
            progress.advance(len(part))
