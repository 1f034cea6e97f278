"""Distillation from a teacher that is trained already, whose labels come with the images (`data/soft_labels.py`).

The student's side is made of features without dropout, as the teacher's: else the losses would measure dropout. Terms
are computed at the stride of the logits.

Shapes: B images, K classes, H x W pixels of the mask, h x w grid cells, s x s cells of the soft labels.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from foodseg.config.distill import DistillConfig
from foodseg.config.loss import LossConfig
from foodseg.losses.cross_entropy import present_ids
from foodseg.losses.segmentation import present_classes
from foodseg.losses.term import LossTerm, Outputs, SoftTargets, Targets

CONFIDENT = 0.95  # probability from which on a teacher labels a pixel that has no label (Yang et al., UniMatch, 2023)
SMALLEST = 1e-6  # standard deviation that a map must have to be correlated with another


def soft_label_losses(loss: LossConfig, distill: DistillConfig, *, warmup: float, total_steps: int) -> list[LossTerm]:
    """The terms that compare the student with soft labels, from the end of the learning rate's warm-up on.

    Args:
        warmup: share of the updates (`optim.warmup`).
    """
    if not distill.teacher:
        return []
    begins = round(warmup * total_steps)
    return [
        SoftCrossEntropy(loss.soft_labels, begins),
        PixelCorrelation(loss.pixel_correlation, begins),
        ClassCorrelation(loss.class_correlation, begins),
        Gate(0.0, begins),
    ]


@dataclass(frozen=True)
class _SoftLabelTerm(LossTerm):
    needs_soft_labels = needs_undropped = True
    begins: int

    def weight(self, step: int) -> float:
        return self.factor if step >= self.begins else 0.0

    def count(self, targets: Targets) -> torch.Tensor:
        return targets.real()


class SoftCrossEntropy(_SoftLabelTerm):
    """Cross entropy with the teacher's probabilities in the pixels of the gate, for a share of that with the label.

    (1 - share) CE(label) + share CE(teacher): the gradient keeps its size.
    """

    name = "soft_labels"

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        soft = outputs.teacher_targets
        return soft_cross_entropy_sum(outputs.undropped, soft.probabilities, pixels_per_cell(soft))


class PixelCorrelation(_SoftLabelTerm):
    """1 - Pearson's correlation, over the classes, of each cell (DIST: Huang et al., 2022, inter-class)."""

    name = "pixel_correlation"

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        pixels = targets.real_per_cell(outputs.undropped, outputs.student.stride)
        return pixel_correlation_sum(outputs.undropped, outputs.teacher_targets.probabilities, pixels)


class ClassCorrelation(_SoftLabelTerm):
    """1 - Pearson's correlation, over an image's cells, of each class that is present in it (DIST, intra-class)."""

    name = "class_correlation"

    def count(self, targets: Targets) -> torch.Tensor:
        return present_classes(targets.mask, targets.ignore_id, targets.ingredients.shape[1])

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        pixels = targets.real_per_cell(outputs.undropped, outputs.student.stride)
        present = present_ids(targets.mask, targets.ignore_id, targets.ingredients.shape[1])
        return class_correlation_sum(outputs.undropped, outputs.teacher_targets.probabilities, pixels, present)


class Gate(_SoftLabelTerm):
    """The share of the pixels in which the teacher is followed; it is only logged."""

    name = "gate"

    def active(self, step: int) -> bool:
        return step >= self.begins

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        return outputs.teacher_targets.gate.sum()


def soft_targets(
    ids: torch.Tensor, scores: torch.Tensor, targets: Targets, grid: tuple[int, int], share: float
) -> SoftTargets:
    """Makes the targets of a micro-batch.

    Args:
        ids, scores: (B, s, s, n) integers and floats, the most probable classes of each cell, the first one first;
            scores of 0 where nothing is known.
        grid: (h, w) of the student's logits.
        share: see `SoftTargets`.
    """
    classes, mask = targets.ingredients.shape[1], targets.mask
    listed, likely = ids.long().movedim(-1, 1), scores.float().movedim(-1, 1)
    dense = likely.new_zeros(len(ids), classes, *ids.shape[1:3]).scatter_add_(1, listed, likely)
    pooled = adaptive_avg_pool2d(dense, grid)
    total = pooled.sum(1, keepdim=True)
    probabilities = torch.where(total > 0, pooled / total.clamp_min(1e-6), 0)
    best, confidence = (_per_pixel(first[:, 0], mask) for first in (listed.float(), likely))
    labelled, real = mask != targets.ignore_id, targets.real_mask()
    agrees = torch.where(labelled, (best == mask) & (confidence > 0), (confidence >= CONFIDENT) & real)
    return SoftTargets(probabilities, agrees.float(), share)


def pixels_per_cell(soft: SoftTargets) -> torch.Tensor:
    """Returns (B, h, w) float32, how many pixels of each cell are in the gate."""
    grid = soft.probabilities.shape[-2:]
    cell = soft.gate[0].numel() / (grid[0] * grid[1])
    return adaptive_avg_pool2d(soft.gate[:, None], (grid[0], grid[1]))[:, 0] * cell


def soft_cross_entropy_sum(logits: torch.Tensor, target: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Sum over pixels of - sum_k target_k log softmax(logits)_k: (B, K, h, w) twice, (B, h, w) -> scalar float32."""
    return -((target * logits.float().log_softmax(1)).sum(1) * pixels).sum()


def pixel_correlation_sum(logits: torch.Tensor, target: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Sum over pixels of 1 - the correlation over classes of softmax(logits) and target, where there is a target.

    (B, K, h, w) twice, (B, h, w) -> scalar float32.
    """
    own = logits.float().softmax(1)
    own, other = (values - values.mean(1, keepdim=True) for values in (own, target))
    known = pixels * (target.sum(1) > 0)
    return ((1 - _correlation(own, other, 1)) * known).sum()


def class_correlation_sum(
    logits: torch.Tensor, target: torch.Tensor, pixels: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    """Sum over (image, present class) of 1 - the correlation over the image's cells of softmax(logits) and target.

    A class whose map is the same everywhere has none: it counts 1, without a gradient.

    (B, K, h, w) twice, (B, h, w) weights of the cells, (B, K) bool -> scalar float32.
    """
    weights = (pixels * (target.sum(1) > 0)).flatten(1)[:, None]
    weights = weights / weights.sum(2, keepdim=True).clamp_min(1)
    own, other = (
        values - (values * weights).sum(2, keepdim=True)
        for values in (logits.float().softmax(1).flatten(2), target.flatten(2))
    )
    root = weights.sqrt()
    distance = 1 - _correlation(own * root, other * root, 2)
    return torch.where(present, distance, 0).sum()


def _correlation(one: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    """Pearson's correlation of centred values."""
    deviations = (one.square().sum(dim) * other.square().sum(dim)).clamp_min(SMALLEST**2).sqrt()
    return (one * other).sum(dim) / deviations


def _per_pixel(cells: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, s, s) float -> (B, H, W), the value of the cell that each pixel is in."""
    return interpolate(cells[:, None], size=mask.shape[-2:], mode="nearest")[:, 0]
