"""Distillation within one network: heads that only a training has are its teachers or its students.

Shapes: B images, K classes, h x w grid cells, h_i x w_i those of a coarser stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d

from foodseg.classes import BACKGROUND
from foodseg.config.loss import LossConfig
from foodseg.data.device_copy import to_device
from foodseg.losses.cross_entropy import cross_entropy_sum, labelled_pixels
from foodseg.losses.segmentation import thinned
from foodseg.losses.term import LossTerm, Outputs, Targets

STAGE_TEMPERATURE = 3.0  # Zhang et al., Be your own teacher, 2019
RISE = (0.2, 0.5)  # shares of the updates between which a teacher that learns too comes in


def training_head_losses(loss: LossConfig, *, strides: Sequence[int], total_steps: int) -> list[LossTerm]:
    """The terms of the stage heads and of the privileged head. strides: of the decoder's stages, the finest first."""
    coarser = tuple(strides[1:])
    return [
        StageLabels(loss.stage_labels, coarser),
        StageDistill(loss.stage_distill, coarser),
        PrivilegedLabels(loss.privileged),
        PrivilegedDistill(loss.privileged_distill, strides[0], total_steps),
    ]


@dataclass(frozen=True)
class StageLabels(LossTerm):
    """Cross entropy of each coarser stage, over labelled pixels and stages."""

    name = "stage_labels"
    strides: tuple[int, ...]

    def count(self, targets: Targets) -> torch.Tensor:
        return labelled_pixels(targets.mask, targets.ignore_id) * len(self.strides)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        each = [
            cross_entropy_sum(logits, targets.mask, targets.ignore_id, targets.unannotated)
            for logits in outputs.student.stage_logits
        ]
        return torch.stack(each).sum()


@dataclass(frozen=True)
class StageDistill(LossTerm):
    """Divergence of each coarser stage from the logits without dropout, pooled to it; over pixels and stages."""

    name = "stage_distill"
    needs_undropped = True
    strides: tuple[int, ...]

    def count(self, targets: Targets) -> torch.Tensor:
        return targets.real() * len(self.strides)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        finest = outputs.undropped.detach().float()
        total = []
        for logits, stride in zip(outputs.student.stage_logits, self.strides, strict=True):
            teacher = adaptive_avg_pool2d(finest, (logits.shape[2], logits.shape[3]))
            pixels = targets.real_per_cell(logits, stride)
            total.append(divergence_sum(logits, teacher, pixels, STAGE_TEMPERATURE))
        return torch.stack(total).sum()


@dataclass(frozen=True)
class PrivilegedLabels(LossTerm):
    """Cross entropy of the logits that know which classes are on the image."""

    name = "privileged"

    def count(self, targets: Targets) -> torch.Tensor:
        return labelled_pixels(targets.mask, targets.ignore_id)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        logits = outputs.student.privileged
        assert logits is not None
        return cross_entropy_sum(logits, targets.mask, targets.ignore_id, targets.unannotated)


@dataclass(frozen=True)
class PrivilegedDistill(LossTerm):
    """Divergence of the logits from those that know the classes, among these classes, where they are right.

    What is learned is the difference between look-alikes: that the other classes are absent is not.
    """

    name = "privileged_distill"
    needs_undropped = True
    stride: int
    total_steps: int

    def weight(self, step: int) -> float:
        begin, end = RISE
        return self.factor * min(1.0, max(0.0, (step / self.total_steps - begin) / (end - begin)))

    def count(self, targets: Targets) -> torch.Tensor:
        return targets.real()

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        teacher = outputs.student.privileged
        assert teacher is not None
        present = to_device(present_classes_of(targets), teacher.device)[:, :, None, None]
        own, other = (
            logits.float().masked_fill(~present, -torch.inf) for logits in (outputs.undropped, teacher.detach())
        )
        mask = thinned(targets.mask, self.stride)
        right = (other.argmax(1) == mask).float() * targets.real_per_cell(own, self.stride)
        return divergence_sum(own, other, right, 1.0)


def present_classes_of(targets: Targets) -> torch.Tensor:
    """Returns (B, K) bool on the CPU, the classes on each image and background; all where they are not known."""
    present = targets.ingredients | ~targets.ingredients_known[:, None]
    if targets.unannotated is not None:
        present = present | targets.unannotated
    present[:, BACKGROUND] = True
    return present


def divergence_sum(
    student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over classes and pixels (Hinton et al., 2015).

    (B, K, h, w) logits, -inf for a class that is left out of both, and (B, h, w) pixels of each cell -> scalar float32.
    """
    own = (student.float() / temperature).log_softmax(1)
    target = (teacher.float() / temperature).log_softmax(1)
    share = target.exp()
    each = torch.where(share > 0, share * (target - own), 0)
    return temperature**2 * (each.sum(1) * pixels).sum()
