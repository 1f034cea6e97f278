"""A loss term is a small object: name, weight, and the count and the sum of one micro-batch.

The loop adds both up over micro-batches and ranks, and divides once. A new term is a class and a line in the list of
`losses/segmentation.py` or `losses/distillation.py`, and a field in `config/loss.py`, which is called as the term is.

Shapes: B images, K classes, H x W pixels of the mask.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from foodseg.data.augment.photometric import real_pixels, real_pixels_per_cell
from foodseg.models.segmenter import SegmenterOutput


@dataclass(frozen=True)
class Targets:
    """What is known of a micro-batch before a model sees it; counts depend on nothing else.

    `mask` and `extent` are on the device of the model, the others on the CPU.

    Attributes:
        mask: (B, H, W) int64, class ids or `ignore_id`, which is also where the class is outside the student's
            conditioning: it cannot learn from such a pixel that the class is there.
        extent: (B, 4) int32 top, left, bottom, right of the pixels that are not padding.
        unannotated: (B, K) bool, ids that each image's source never annotates; None = every id is annotated.
        ingredients: (B, K) bool, foreground ids in the crop.
        ingredients_known: (B,) bool, False where `ingredients` is unknown, since there is no mask.
        conditioning: (B, K) bool, the student's conditioning classes; None = the model is not conditioned.
        whole_mask: the mask with the pixels of all classes, for what no conditioning changes; None = `mask`.
    """

    mask: torch.Tensor
    ignore_id: int
    extent: torch.Tensor
    unannotated: torch.Tensor | None
    ingredients: torch.Tensor
    ingredients_known: torch.Tensor
    conditioning: torch.Tensor | None
    whole_mask: torch.Tensor | None = None

    def every_label(self) -> torch.Tensor:
        """Returns (B, H, W) int64, the mask with the pixels of all classes."""
        return self.mask if self.whole_mask is None else self.whole_mask

    def real_mask(self) -> torch.Tensor:
        """Returns (B, H, W) bool, the pixels that are not padding, labelled or not."""
        return real_pixels(self.extent, *self.mask.shape[-2:])

    def real(self) -> torch.Tensor:
        """Returns the number of these pixels: scalar int64."""
        return self.real_mask().sum()

    def real_per_cell(self, values: torch.Tensor, stride: int) -> torch.Tensor:
        """Returns (B, h, w) float32: of the stride x stride pixels of each cell of `values` (B, C, h, w), the real."""
        height, width = values.shape[-2:]
        return real_pixels_per_cell(self.extent, height, width, stride)


@dataclass(frozen=True)
class SoftTargets:
    """What a teacher that is trained already says of a micro-batch, on the grid of the student's logits.

    Attributes:
        probabilities: (B, K, h, w) float32; they add up to 1, or are 0 where nothing is known.
        gate: (B, H, W) float32, 1 for each pixel of the mask whose label is the teacher's best class, or which has no
            label and a confident teacher; else 0.
        share: of the cross entropy with the label, in each such pixel, that the cross entropy with the teacher
            replaces.
    """

    probabilities: torch.Tensor
    gate: torch.Tensor
    share: float


@dataclass(frozen=True)
class Outputs:
    """What the models made of the micro-batch.

    Attributes:
        soft: the teacher's output; None where no term compares with it.
        pseudo_labels: (n, h, w) int64, ids or `ignore_id`, what the averaged weights say of the n images without mask;
            None without one.
        soft_targets: what a teacher that is trained already says; None without one.
        compared: what of the student is compared with it; None = `student` itself.
    """

    student: SegmenterOutput
    soft: SegmenterOutput | None = None
    soft_targets: SoftTargets | None = None
    pseudo_labels: torch.Tensor | None = None
    compared: SegmenterOutput | None = None

    @property
    def mask_weights(self) -> torch.Tensor | None:
        """(B, H, W) float32, how much of the cross entropy with the label counts in each pixel; None = all of it."""
        return None if self.soft_targets is None else 1 - self.soft_targets.share * self.soft_targets.gate

    @property
    def teacher_targets(self) -> SoftTargets:
        """What a teacher that is trained already says; its tensors have no gradient."""
        assert self.soft_targets is not None, "this term needs soft labels"
        return self.soft_targets

    @property
    def undropped(self) -> torch.Tensor:
        """(B, K, h, w) the student's logits without dropout."""
        assert self.student.undropped is not None, "the network was not asked for these"
        return self.student.undropped[0]

    @property
    def own(self) -> SegmenterOutput:
        """The student's side of a comparison with the teacher."""
        return self.student if self.compared is None else self.compared

    @property
    def teacher(self) -> SegmenterOutput:
        """The teacher's output; its tensors have no gradient."""
        assert self.soft is not None, "this term needs a teacher"
        return self.soft


@dataclass(frozen=True)
class LossTerm(ABC):
    """One term of the loss; what it is built with beyond its weight are fields of its class.

    Attributes:
        factor: its weight in the configuration; a term with weight 0 is not computed.
        name: its key in `loss` and in the logs.
        needs_teacher: whether it compares the student with the averaged weights; its key has the mark `NeedsTeacher`.
        needs_soft_labels: whether it compares it with a teacher that is trained already (`NeedsSoftLabels`).
        needs_undropped: whether it compares logits without dropout.
    """

    factor: float
    name: ClassVar[str]
    needs_teacher: ClassVar[bool] = False
    needs_soft_labels: ClassVar[bool] = False
    needs_undropped: ClassVar[bool] = False

    def weight(self, step: int) -> float:
        """Returns the weight in update number `step` (0, 1, ...)."""
        return self.factor

    def active(self, step: int) -> bool:
        """Whether it is computed in update number `step`."""
        return self.weight(step) > 0

    @abstractmethod
    def count(self, targets: Targets) -> torch.Tensor:
        """Returns what the sum is divided by, for this micro-batch alone: scalar int64, on the device of the mask."""

    @abstractmethod
    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        """Returns the sum over this micro-batch: scalar float32, with gradients to the student alone."""
