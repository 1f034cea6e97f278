"""Chooses what is learned from what is trained: pixels, regions, or the moments of an open-vocabulary model."""

from collections.abc import Mapping

import torch

from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.models.build import Trained
from foodseg.models.open_vocabulary import OpenVocabularyNetwork
from foodseg.models.roi import RegionNetwork
from foodseg.train.moments import MomentsTask
from foodseg.train.region_task import RegionTask, region_teacher
from foodseg.train.task import SegmentationTask, Task


def build_task(
    config: ExperimentConfig,
    classes: ClassTable,
    annotated: Mapping[str, tuple[int, ...] | None],
    model: Trained,
    *,
    total_steps: int,
    device: torch.device,
) -> Task | MomentsTask:
    """Builds the task of a model; arguments as for `SegmentationTask`. UserError: as `region_teacher`."""
    if isinstance(model, OpenVocabularyNetwork):
        return MomentsTask(config, classes, annotated, model)
    if isinstance(model, RegionNetwork):
        return RegionTask(config, model, region_teacher(config, device))
    return SegmentationTask(config, classes, annotated, model, total_steps=total_steps)
