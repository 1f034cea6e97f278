"""An open-vocabulary model is fitted, not trained: each update adds the sums over its images to those before.

    task = MomentsTask(config, classes, manifest.annotated, network)
    cells, images = task.add(window, context)

The loop, its stream, checkpoints and validation are those of every training: a killed run resumes with the sums of its
checkpoint, and any number of workers has the same sums.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config import ExperimentConfig
from foodseg.data.augment.photometric import jittered_view
from foodseg.data.batch import Batch
from foodseg.data.sources import unannotated
from foodseg.losses.cross_entropy import sum_dtype
from foodseg.models.backbones.frozen_features import FeatureCache
from foodseg.models.open_vocabulary import OpenVocabularyNetwork
from foodseg.predict.predictor import AUTOCAST
from foodseg.train.context import TrainContext

TERM = "cells"  # per image that have one class


class MomentsTask:
    """Sums over the crops of an update.

    Attributes:
        module: the network that has them.
    """

    module: nn.Module

    def __init__(
        self,
        config: ExperimentConfig,
        classes: ClassTable,
        annotated: Mapping[str, tuple[int, ...] | None],
        network: OpenVocabularyNetwork,
    ) -> None:
        """As for `SegmentationTask`."""
        self._config, self._classes, self._network = config, classes, network
        self.module = network
        if config.train.latent_cache is not None:
            network.backbone.feature_cache = FeatureCache(config.train.latent_cache)
        hidden = unannotated(annotated, len(classes))
        self._unannotated = None if hidden is None else torch.from_numpy(hidden)

    def weights_at(self, step: int) -> dict[str, float]:
        """Returns what the log shows: the cells of an image that are learned from."""
        return {TERM: 1.0}

    @torch.no_grad()
    def add(self, window: Sequence[Batch], context: TrainContext) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the sums over the micro-batches of one update and all ranks; all ranks call it.

        Returns:
            This rank's cells, and the images of all ranks; both (1,) of `sum_dtype`.
        """
        network, dtype = self._network, AUTOCAST[self._config.train.precision]
        network.eval()
        found = network.new_moments()
        cells = 0
        for batch in window:
            image = jittered_view(batch.image, batch.extent, network.mean, batch.seed, self._config.augment)
            with torch.autocast(context.device.type, dtype, enabled=dtype is not None):
                cells += network.accumulate(found, image, self._mask(batch), self._classes.ignore_id)
        parts = vars(found)
        flat = context.all_reduce(torch.cat([part.flatten() for part in parts.values()]))
        for part, own in zip(parts.values(), flat.split([part.numel() for part in parts.values()]), strict=True):
            part.copy_(own.view_as(part))
        network.add(found)
        precise = sum_dtype(context.device)
        images = torch.tensor([sum(len(batch.image) for batch in window)], dtype=precise, device=context.device)
        return torch.tensor([cells], dtype=precise, device=context.device), context.all_reduce(images)

    def _mask(self, batch: Batch) -> torch.Tensor:
        """A pixel that a source calls background may be anything that the source never annotates: it is not known."""
        mask = batch.mask.long()
        if self._unannotated is None:
            return mask
        incomplete = self._unannotated[batch.source.long()].any(1).to(mask.device)[:, None, None]
        return torch.where(incomplete & (mask == BACKGROUND), self._classes.ignore_id, mask)
