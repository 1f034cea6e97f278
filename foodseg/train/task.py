"""What is being learned. The loop knows a `Task` and never a mask; the segmenter is the first one."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from foodseg.classes import ClassTable
from foodseg.config import ExperimentConfig
from foodseg.data.batch import Batch
from foodseg.data.sources import unannotated
from foodseg.data.views import jittered_view
from foodseg.losses import (
    cross_entropy_sum,
    dice_sum,
    labelled_pixels,
    present_classes,
    upsample_logits,
)
from foodseg.models.build import build_segmenter


class Task(Protocol):
    """A module with the terms of its loss.

    Attributes:
        module: what is trained; the loop may wrap it (DDP) and hands the wrapped one to `loss`.
        weights: weight of each loss term; terms that are not in it are not computed.
    """

    module: nn.Module
    weights: dict[str, float]

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Returns per term the number that its sum is divided by, for this micro-batch alone."""
        ...

    def loss(self, module: nn.Module, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """Returns per term the *sum* over this micro-batch, with gradients."""
        ...


class SegmentationTask:
    """Cross entropy (and Dice) of the segmenter on labelled pixels.

    `annotated` holds per source the ids that it annotates (None = all), in the order that `Batch.source` counts in.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        classes: ClassTable,
        annotated: Mapping[str, tuple[int, ...] | None],
        *,
        pretrained: bool,
    ) -> None:
        self._augment = config.augment
        self._classes = classes
        self.module: nn.Module = build_segmenter(config.model, len(classes), pretrained=pretrained)
        terms = {"cross_entropy": config.loss.cross_entropy, "dice": config.loss.dice}
        self.weights = {name: weight for name, weight in terms.items() if weight > 0}
        hidden = unannotated(annotated, len(classes))
        self._unannotated = None if hidden is None else torch.from_numpy(hidden)
        self._mean = torch.tensor(config.model.mean).view(1, 3, 1, 1)

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        mask = batch.mask.long()
        counts = {"cross_entropy": labelled_pixels(mask, self._classes.ignore_id)}
        if "dice" in self.weights:
            counts["dice"] = present_classes(mask, self._classes.ignore_id, len(self._classes))
        return {name: counts[name] for name in self.weights}

    def loss(self, module: nn.Module, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        mask = batch.mask.long()
        mean = self._mean.to(batch.image.device)
        image = jittered_view(batch.image, batch.extent, mean, batch.seed, self._augment)
        logits = module(image).logits
        hidden = None if self._unannotated is None else self._unannotated.to(mask.device)[batch.source.long()]
        sums = {}
        if "cross_entropy" in self.weights:
            sums["cross_entropy"] = cross_entropy_sum(logits, mask, self._classes.ignore_id, hidden)
        if "dice" in self.weights:
            resized = upsample_logits(logits, *mask.shape[-2:])
            sums["dice"] = dice_sum(resized, mask, self._classes.ignore_id, hidden)
        return sums
