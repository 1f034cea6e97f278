"""What a network learns that compares pixels with class names: each pixel its class, and an image the classes on it.

The logits are cosines of pixel embeddings and class embeddings divided by a temperature (`models/pixel_text.py`).

Shapes: B images, K classes, h x w grid cells.
"""

from dataclasses import dataclass

import torch

from foodseg.classes import BACKGROUND
from foodseg.config.loss import LossConfig
from foodseg.data.device_copy import to_device
from foodseg.losses.cross_entropy import cross_entropy_sum, labelled_pixels
from foodseg.losses.term import LossTerm, Outputs, Targets


def pixel_text_losses(config: LossConfig) -> list[LossTerm]:
    """The terms of a network with a pixel-text head."""
    return [PixelText(config.pixel_text, config.label_smoothing), ImageText(config.image_text)]


@dataclass(frozen=True)
class PixelText(LossTerm):
    """Cross entropy of the scaled cosines over labelled pixels, at the size of the mask."""

    name = "pixel_text"
    smoothing: float = 0.0

    def count(self, targets: Targets) -> torch.Tensor:
        return labelled_pixels(targets.mask, targets.ignore_id)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        logits, weights = outputs.student.logits, outputs.mask_weights
        return cross_entropy_sum(logits, targets.mask, targets.ignore_id, targets.unannotated, weights, self.smoothing)


class ImageText(LossTerm):
    """Cross entropy of an image's mean pixel embedding with the foreground classes on it, each with the same share.

    Over images of which it is known what is on them, and something is. Ids that the source never annotates do not
    compete.
    """

    name = "image_text"

    def count(self, targets: Targets) -> torch.Tensor:
        return to_device(self._known(targets).sum(), targets.mask.device)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        student = outputs.student
        left_out = torch.zeros_like(targets.ingredients) if targets.unannotated is None else targets.unannotated
        left_out = left_out & ~targets.ingredients
        left_out[:, BACKGROUND] = True
        present = targets.ingredients & self._known(targets)[:, None] & ~left_out
        pixels = targets.real_per_cell(student.logits, student.stride)
        device = student.logits.device
        return image_text_sum(student.logits, pixels, to_device(present, device), to_device(left_out, device))

    def _known(self, targets: Targets) -> torch.Tensor:
        """(B,) bool on the CPU."""
        return targets.ingredients_known & targets.ingredients.any(1)


def image_text_sum(
    logits: torch.Tensor, pixels: torch.Tensor, present: torch.Tensor, left_out: torch.Tensor
) -> torch.Tensor:
    """Sum over images of the mean over the present classes of -log softmax of the mean logits; 0 without a class.

    The mean of cosines is the cosine product of the class and the mean of the pixel embeddings.

    Args:
        logits: (B, K, h, w) float. pixels: (B, h, w) float, the pixels of each cell that are not padding.
        present: (B, K) bool. left_out: (B, K) bool, classes that do not compete; none of them is present.

    Returns:
        Scalar float32.
    """
    share = pixels / pixels.sum((1, 2), keepdim=True).clamp_min(1)
    mean = (logits.float() * share[:, None]).sum((2, 3)).masked_fill(left_out, -torch.inf)
    each = torch.where(present, -mean.log_softmax(1), 0).sum(1)
    return (each / present.sum(1).clamp_min(1)).sum()
