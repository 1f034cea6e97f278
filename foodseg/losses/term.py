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
        mask: (B, H, W) int64, class ids or `ignore_id`.
        extent: (B, 4) int32 top, left, bottom, right of the pixels that are not padding.
        unannotated: (B, K) bool, ids that each image's source never annotates; None = every id is annotated.
        ingredients: (B, K) bool, foreground ids in the crop.
        ingredients_known: (B,) bool, False where `ingredients` is unknown, since there is no mask.
        conditioning: (B, K) bool, the student's conditioning classes; None = the model is not conditioned.
    """

    mask: torch.Tensor
    ignore_id: int
    extent: torch.Tensor
    unannotated: torch.Tensor | None
    ingredients: torch.Tensor
    ingredients_known: torch.Tensor
    conditioning: torch.Tensor | None

    def real(self) -> torch.Tensor:
        """Returns the number of pixels that are not padding, labelled or not: scalar int64."""
        return real_pixels(self.extent, *self.mask.shape[-2:]).sum()

    def real_per_cell(self, values: torch.Tensor, stride: int) -> torch.Tensor:
        """Returns (B, h, w) float32: of the stride x stride pixels of each cell of `values` (B, C, h, w), the real."""
        height, width = values.shape[-2:]
        return real_pixels_per_cell(self.extent, height, width, stride)


@dataclass(frozen=True)
class Outputs:
    """What the models made of the micro-batch.

    Attributes:
        soft: the teacher's output; None where no term compares with it.
        compared: what of the student is compared with it; None = `student` itself.
    """

    student: SegmenterOutput
    soft: SegmenterOutput | None = None
    compared: SegmenterOutput | None = None

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
        needs_teacher: whether it compares the student with the teacher; its key has the mark `NeedsTeacher`.
    """

    factor: float
    name: ClassVar[str]
    needs_teacher: ClassVar[bool] = False

    def weight(self, step: int) -> float:
        """Returns the weight in update number `step` (0, 1, ...)."""
        return self.factor

    @abstractmethod
    def count(self, targets: Targets) -> torch.Tensor:
        """Returns what the sum is divided by, for this micro-batch alone: scalar int64, on the device of the mask."""

    @abstractmethod
    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        """Returns the sum over this micro-batch: scalar float32, with gradients to the student alone."""
