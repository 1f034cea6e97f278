"""Learning to classify regions: the cross entropy, or, with a teacher, the distillation of DeiT.

    task = RegionTask(config, classes, network, teacher)

    hard    1/2 CE(class head, label) + 1/2 CE(distillation head, argmax of the teacher)
    soft    (1 - alpha) CE(class head, label) + alpha T^2 KL(teacher / T, distillation head / T)

after Touvron et al. (2021). The teacher sees the very views that the student sees, jitter included.
"""

import torch
from torch import nn
from torch.nn import functional

from foodseg import storage
from foodseg.checkpoint.checkpoint import load_checkpoint, load_region_network
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.data.augment.photometric import jittered_view
from foodseg.data.batch import RegionBatch
from foodseg.data.roi_views import NO_REGION
from foodseg.errors import UserError
from foodseg.losses.cross_entropy import sum_dtype
from foodseg.models.roi import RegionNetwork, RegionOutput

TERM = "cross_entropy"
DISTILLED = "distilled"


class RegionTask:
    """One region of each image; nothing is learned from an image without a region.

    Attributes:
        module: what is trained.
    """

    module: nn.Module

    def __init__(self, config: ExperimentConfig, network: RegionNetwork, teacher: RegionNetwork | None = None) -> None:
        """Takes the network, and the teacher of `roi.distill`, on the device and in evaluation mode."""
        self._config, self._roi = config, config.roi
        self.module = network
        self.region_teacher = teacher

    def weights_at(self, step: int) -> dict[str, float]:
        """Returns the weight of each term, the same at every step."""
        if not self.has_two_heads:
            return {TERM: 1.0}
        share = self._roi.alpha if self._roi.distill == "soft" else 0.5
        return {TERM: 1 - share, DISTILLED: share}

    @property
    def has_two_heads(self) -> bool:
        """Whether there is a distillation head; without a teacher it learns the labels, as the other does."""
        network = self.module
        return isinstance(network, RegionNetwork) and network.distilled

    def counts(self, batch: RegionBatch, step: int) -> dict[str, torch.Tensor]:
        """Returns the regions of the batch, for each term."""
        count = (batch.label != NO_REGION).sum().to(sum_dtype(batch.label.device))
        return dict.fromkeys(self.weights_at(step), count)

    def loss(
        self, module: nn.Module, batch: RegionBatch, step: int, teacher: nn.Module | None = None
    ) -> dict[str, torch.Tensor]:
        """As `Task.loss`. The averaged weights are not a teacher here."""
        views = self.views(batch)
        output: RegionOutput = module(views)
        terms = {TERM: self._cross_entropy(output.logits, batch.label)}
        if output.distilled is not None:
            terms[DISTILLED] = self._distilled(output.distilled, views, batch.label)
        return terms

    def views(self, batch: RegionBatch) -> torch.Tensor:
        """Returns (B, V, 3, S, S) float in [0, 1], all views of a region jittered alike."""
        found = batch.views
        if self._roi.views == "roi_other_context":
            found = exchanged_contexts(found, batch.source)
        extent = torch.tensor([[0, 0, *found.shape[-2:]]], device=found.device).expand(len(found), 4)
        mean = found.new_zeros((1, 3, 1, 1), dtype=torch.float32)
        shown = [jittered_view(view, extent, mean, batch.seed, self._config.augment) for view in found.unbind(1)]
        return torch.stack(shown, 1)

    def _cross_entropy(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        smoothing = self._config.loss.label_smoothing
        return functional.cross_entropy(
            logits.float(), label, ignore_index=NO_REGION, reduction="sum", label_smoothing=smoothing
        )

    def _distilled(self, logits: torch.Tensor, views: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        if self.region_teacher is None:
            return self._cross_entropy(logits, label)
        with torch.no_grad():
            said = self.region_teacher(views).averaged.float()
        if self._roi.distill == "hard":
            chosen = torch.where(label == NO_REGION, NO_REGION, said.argmax(1))
            return functional.cross_entropy(logits.float(), chosen, ignore_index=NO_REGION, reduction="sum")
        temperature = self._config.distill.temperature
        log_own = functional.log_softmax(logits.float() / temperature, 1)
        divergence = functional.kl_div(
            log_own, functional.log_softmax(said / temperature, 1), reduction="none", log_target=True
        ).sum(1)
        return temperature**2 * divergence[label != NO_REGION].sum()


def region_teacher(config: ExperimentConfig, device: torch.device | None = None) -> RegionNetwork | None:
    """Loads `distill.teacher` onto the device; None without `roi.distill`.

    Raises:
        UserError: it is not a region classifier, was trained on other views, or there is no checkpoint.
    """
    if config.roi.distill == "none":
        return None
    (uri,) = config.distill.teacher
    checkpoint = load_checkpoint(resolve_checkpoint(uri))
    try:
        network = load_region_network(checkpoint, checkpoint.config.eval.weights)
    except UserError as error:
        raise UserError(f"distill.teacher {storage.redact(uri)}: {error}") from None
    own = checkpoint.config.roi.views
    if own != config.roi.views:
        raise UserError(
            f"distill.teacher {storage.redact(uri)} was trained on roi.views = {own}, and here they are "
            f"{config.roi.views}: it has to see what the student sees"
        )
    return network.to(device).requires_grad_(False)


def exchanged_contexts(views: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Gives each region the context of the next image of its source in the batch: is it context, or the source?

    A region whose source has no other image in the batch keeps its own.

    Args:
        views: (B, 2, 3, S, S). source: (B,), as in `RegionBatch`.
    """
    order = torch.arange(len(views))
    for each in source.unique():
        own = (source == each).nonzero()[:, 0]
        order[own] = own.roll(-1)
    return torch.stack([views[:, 0], views[order.to(views.device), 1]], 1)
