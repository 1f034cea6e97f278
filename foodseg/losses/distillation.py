"""Distillation losses as sums over pixels; the loop divides them, like those of `losses/segmentation.py`.

Terms are computed at the stride of the logits, of a decoder stage or of an attention map, and not at that of the image:
bilinear resizing adds nothing to compare, and at stride 4 this is a sixteenth of the work. Each grid cell is weighted
with its number of pixels that are not padding, labelled or not. So the divisor is a number of pixels, counted once for
each map that is compared. First the terms as objects, then the functions that they are made of.

Shapes: B images, K classes, T tokens, C channels, h x w grid cells.
"""

from dataclasses import dataclass

import torch
from torch.linalg import vector_norm
from torch.nn.functional import interpolate, normalize

from foodseg.config.distill import DistillConfig
from foodseg.config.loss import LossConfig
from foodseg.losses.term import LossTerm, Outputs, Targets

SMALLEST_NORM = 1e-3  # a shorter feature has no direction to follow: its gradient would be huge
SMALL_SHARE = 1e-4  # added to all attention: a masked token has 0, which has no logarithm


def distillation_losses(
    loss: LossConfig,
    distill: DistillConfig,
    *,
    warmup: float,
    total_steps: int,
    strides: tuple[int, ...],
    map_strides: tuple[int, ...],
) -> list[LossTerm]:
    """The terms that compare the student with the teacher.

    Args:
        warmup: share of the steps in which the teacher has not learned anything yet (`optim.warmup`).
        strides: of the decoder stages, the finest first; map_strides: of the attention maps. Pixels per cell.
    """
    compared = tuple(i for i, stride in enumerate(strides) if stride in (distill.stages or strides))
    return [
        SoftTargets(loss.distill, distill.temperature, warmup, distill.ramp, total_steps),
        Features(loss.features),
        Stages(loss.stages, strides, compared),
        DeeperStages(loss.deeper, strides, tuple(i for i in compared if i + 1 < len(strides))),
        Attention(loss.attention, map_strides),
    ]


@dataclass(frozen=True)
class _Distillation(LossTerm):
    """A sum over the pixels that are not padding, of each map that is compared."""

    needs_teacher = True

    @property
    def maps(self) -> int:
        """How many maps are compared."""
        return 1

    def count(self, targets: Targets) -> torch.Tensor:
        return targets.real() * self.maps


@dataclass(frozen=True)
class SoftTargets(_Distillation):
    """Divergence from the teacher's soft targets; its weight rises from the end of the warm-up (`ramp`)."""

    name = "distill"
    temperature: float
    warmup: float
    rise: float
    total_steps: int

    def weight(self, step: int) -> float:
        return self.factor * ramp(step, self.total_steps, self.warmup, self.rise)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        pixels = targets.real_per_cell(outputs.own.logits, outputs.own.stride)
        return divergence_sum(outputs.own.logits, outputs.teacher.logits, pixels, self.temperature)


class Features(_Distillation):
    """1 - cosine of what the classifiers see."""

    name = "features"

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        pixels = targets.real_per_cell(outputs.own.logits, outputs.own.stride)
        return feature_distance_sum(outputs.own.features, outputs.teacher.features, pixels)


@dataclass(frozen=True)
class Stages(_Distillation):
    """1 - cosine of decoder stages, those at the indices `compared`."""

    name = "stages"
    strides: tuple[int, ...]
    compared: tuple[int, ...]

    @property
    def maps(self) -> int:
        return len(self.compared)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        return torch.stack([self._distance(i, targets, outputs) for i in self.compared]).sum()

    def _distance(self, i: int, targets: Targets, outputs: Outputs) -> torch.Tensor:
        own = outputs.own.stages[i]
        return feature_distance_sum(own, outputs.teacher.stages[i], targets.real_per_cell(own, self.strides[i]))


class DeeperStages(Stages):
    """1 - cosine of each of these stages and the teacher's next deeper one."""

    name = "deeper"

    def _distance(self, i: int, targets: Targets, outputs: Outputs) -> torch.Tensor:
        own = outputs.own.stages[i]
        return deeper_distance_sum(own, outputs.teacher.stages[i + 1], targets.real_per_cell(own, self.strides[i]))


@dataclass(frozen=True)
class Attention(_Distillation):
    """Divergence from the teacher's attention maps."""

    name = "attention"
    strides: tuple[int, ...]

    @property
    def maps(self) -> int:
        return len(self.strides)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        each = [
            attention_divergence_sum(own, other, targets.real_per_cell(own, stride))
            for own, other, stride in zip(outputs.own.maps, outputs.teacher.maps, self.strides, strict=True)
        ]
        return torch.stack(each).sum()


def divergence_sum(
    student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over classes and pixels (Hinton et al., 2015).

    Args:
        student: (B, K, h, w) float logits.
        teacher: logits of the teacher (soft targets), same shape; without gradient.
        pixels: (B, h, w) float, how many pixels each grid cell covers: `real_pixels_per_cell` of
            `data/augment/photometric.py`.
        temperature: T; the factor T^2 keeps the gradient's size whatever T is.

    Returns:
        Scalar float32, whatever the autocast type. Divide by the pixels of all ranks.
    """
    own = (student.float() / temperature).log_softmax(1)
    with torch.no_grad():
        target = (teacher.float() / temperature).log_softmax(1)
        share = target.exp()
        negative_entropy = (share * target).sum(1)
    divergence = negative_entropy - (share * own).sum(1)
    return temperature**2 * (divergence * pixels).sum()


def feature_distance_sum(student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """1 - cosine of two feature maps (B, C, h, w), summed over pixels (B, h, w); the teacher gets no gradient.

    The student's features are the input of its classifier, after dropout, so the loss never quite reaches 0 in
    training.
    """
    # not torch's cosine_similarity, which normalises both maps on the way to the gradient: twice the time
    direction = normalize(teacher.detach().float(), dim=1, eps=SMALLEST_NORM)
    own = student.float()
    cosine = (own * direction).sum(1) / vector_norm(own, dim=1).clamp_min(SMALLEST_NORM)
    return ((1 - cosine) * pixels).sum()


def deeper_distance_sum(student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """`feature_distance_sum` of a decoder stage and the teacher's next deeper one, resized to it.

    The deepest stage has the largest receptive field. Each stage is trained to be like the next deeper one (within one
    network: Zhang et al., 2019, "Be your own teacher").

    Args:
        student: (B, C, h, w) float. teacher: (B, C, h', w') float, at about half the size. pixels: (B, h, w) float.
    """
    size = student.shape[-2:]
    resized = interpolate(teacher.detach().float(), size=size, mode="bilinear", align_corners=False)
    return feature_distance_sum(student, resized, pixels)


def attention_divergence_sum(student: torch.Tensor, teacher: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """KL(teacher || student) of the attention of each grid cell to the classes, summed over tokens and pixels.

    Args:
        student: (B, T, h, w) float, shares that sum to 1 over the tokens; 0 for a token outside the conditioning.
        teacher: attention of the teacher, perhaps with other conditioning; without gradient.
        pixels: (B, h, w) float, as for `divergence_sum`.

    Returns:
        Scalar float32. 1e-4 is added to each share in the logarithms, so that both stay finite. A token outside the
        student's conditioning gets no gradient: its softmax is 0 whatever its score.
    """
    target = teacher.detach().float()
    divergence = (target * ((target + SMALL_SHARE).log() - (student.float() + SMALL_SHARE).log())).sum(1)
    return (divergence * pixels).sum()


def ramp(step: int, total_steps: int, warmup: float, rise: float) -> float:
    """Factor of the divergence's weight at update number `step` (0, 1, ...): 0, then linearly up to 1.

    During the learning rate's warm-up the teacher has not learned anything yet.

    Args:
        warmup: share of the steps before the rise (`optim.warmup`).
        rise: share of the steps that the rise takes; 0 = at once.
    """
    done = step + 1 - round(warmup * total_steps)
    return min(1.0, max(0, done) / max(1, round(rise * total_steps)))
