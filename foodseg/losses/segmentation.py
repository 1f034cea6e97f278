"""Losses as sums and counts: summed here, divided in the loop by the count over all ranks and micro-batches.

First the terms as objects, then the functions that they are made of.

Shapes: B images, K classes, H x W pixels of the mask, h x w of the logits.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, one_hot

from foodseg.classes import BACKGROUND
from foodseg.config.loss import LossConfig
from foodseg.data.device_copy import to_device
from foodseg.losses.cross_entropy import cross_entropy_sum, labelled_pixels, present_ids, seen_ids, with_background
from foodseg.losses.lovasz import lovasz_sum
from foodseg.losses.term import LossTerm, Outputs, Targets


def segmentation_losses(config: LossConfig, *, finest_stride: int, head_sees_conditioning: bool) -> list[LossTerm]:
    """The terms that learn from masks and from the classes on a crop.

    Args:
        finest_stride: pixels per cell of the logits, and of the score map's level.
        head_sees_conditioning: whether the features of the ingredient head depend on the conditioning classes.
    """
    return [
        CrossEntropy(config.cross_entropy, config.label_smoothing),
        Dice(config.dice),
        Lovasz(config.lovasz, finest_stride),
        ScoreMapCrossEntropy(config.score_map, finest_stride),
        Ingredients(config.ingredients, head_sees_conditioning),
    ]


@dataclass(frozen=True)
class CrossEntropy(LossTerm):
    """Cross entropy over labelled pixels, at the size of the mask."""

    name = "cross_entropy"
    smoothing: float = 0.0

    def count(self, targets: Targets) -> torch.Tensor:
        return labelled_pixels(targets.mask, targets.ignore_id)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        logits, weights = outputs.student.logits, outputs.mask_weights
        if outputs.student.linear_logits is not None:  # a teacher is followed by the logits that are kept
            logits, weights = outputs.student.linear_logits, None
        return cross_entropy_sum(logits, targets.mask, targets.ignore_id, targets.unannotated, weights, self.smoothing)


class Dice(LossTerm):
    """1 - Dice of each class present in each crop."""

    name = "dice"

    def count(self, targets: Targets) -> torch.Tensor:
        return present_classes(targets.mask, targets.ignore_id, targets.ingredients.shape[1])

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        resized = upsample_logits(outputs.student.logits, *targets.mask.shape[-2:])
        return dice_sum(resized, targets.mask, targets.ignore_id, targets.unannotated)


@dataclass(frozen=True)
class Lovasz(LossTerm):
    """Lovasz extension of 1 - IoU of each class present in each crop, at the logits' own stride.

    There it costs little: sorting all pixels of the mask would take longer than the cross entropy.
    """

    name = "lovasz"
    stride: int

    def count(self, targets: Targets) -> torch.Tensor:
        mask = thinned(targets.mask, self.stride)
        return present_classes(mask, targets.ignore_id, targets.ingredients.shape[1])

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        logits, mask = outputs.student.logits.float(), thinned(targets.mask, self.stride)
        if targets.unannotated is not None:
            logits = _merged(logits, targets.unannotated, seen_ids(mask, targets.ignore_id, logits.shape[1]))
        return lovasz_sum(logits, mask, targets.ignore_id)


@dataclass(frozen=True)
class ScoreMapCrossEntropy(LossTerm):
    """Cross entropy of the score map, on the mask at the stride of the finest level.

    That is enough for an auxiliary loss, and less work.
    """

    name = "score_map"
    stride: int

    def count(self, targets: Targets) -> torch.Tensor:
        return labelled_pixels(thinned(targets.every_label(), self.stride), targets.ignore_id)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        scores = outputs.student.score_map
        assert scores is not None
        mask = thinned(targets.every_label(), self.stride)
        return cross_entropy_sum(scores, mask, targets.ignore_id, targets.unannotated)


@dataclass(frozen=True)
class Ingredients(LossTerm):
    """Binary cross entropy of the ingredient head, over the classes of which it is known whether they are on a crop.

    Where the head's features depend on the conditioning, it learns only from images that were conditioned on all
    classes: from the others it would learn to repeat the conditioning.
    """

    name = "ingredients"
    sees_conditioning: bool

    def count(self, targets: Targets) -> torch.Tensor:
        return to_device(self._known(targets).sum(), targets.mask.device)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        logits = outputs.student.ingredient_logits
        assert logits is not None
        device = logits.device
        return ingredient_sum(logits, to_device(targets.ingredients, device), to_device(self._known(targets), device))

    def _known(self, targets: Targets) -> torch.Tensor:
        """(B, K) bool, the classes that the head learns."""
        known = targets.ingredients_known[:, None].expand_as(targets.ingredients).clone()
        if targets.unannotated is not None:
            known &= ~targets.unannotated | targets.ingredients
        if self.sees_conditioning and targets.conditioning is not None:
            known &= targets.conditioning.all(1, keepdim=True)
        known[:, BACKGROUND] = False
        return known


def thinned(mask: torch.Tensor, stride: int) -> torch.Tensor:
    """(B, H, W) -> (B, H / stride, W / stride), the pixel in the middle of each grid cell."""
    return mask[:, stride // 2 :: stride, stride // 2 :: stride].contiguous()


def upsample_logits(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, K, h, w) -> (B, K, height, width), bilinear; float32 whatever the autocast type."""
    return interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)


def _merged(logits: torch.Tensor, unannotated: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) logits with the probability of U, without the ids `seen` (B, K), moved to background."""
    possible = with_background(unannotated)
    absorbed = to_device(possible, logits.device) & ~seen
    # the sum over fewer channels takes half the time
    columns = to_device(possible.any(0).nonzero()[:, 0], logits.device)
    parts = logits[:, columns].masked_fill(~absorbed[:, columns, None, None], -torch.inf)
    merged = logits.masked_fill(absorbed[:, :, None, None], -torch.inf)
    merged[:, 0] = parts.logsumexp(dim=1)
    return merged


def dice_sum(
    logits: torch.Tensor, mask: torch.Tensor, ignore_id: int, unannotated: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over (image, class present in it) of 1 - Dice, ignored pixels left out (Milletari et al., V-Net, 2016).

    Per image and not per batch, so that it is a sum over images however the batch is split over ranks.
    (B, K, H, W) float, (B, H, W) int64 -> scalar. Divide by `present_classes`.

    With `unannotated` as in `cross_entropy_sum`, background counts with the probability of U added to its own, so that
    calling a background pixel u neither helps nor hurts; U are not among the classes that are summed over.
    """
    classes = logits.shape[1]
    if unannotated is not None:
        logits = _merged(logits, unannotated, seen_ids(mask, ignore_id, classes))
    valid = mask != ignore_id
    probability = logits.softmax(dim=1) * valid[:, None]
    truth = one_hot(torch.where(valid, mask, 0), classes).movedim(-1, 1) * valid[:, None]
    overlap = (probability * truth).sum((2, 3))
    total = probability.sum((2, 3)) + truth.sum((2, 3))
    present = truth.sum((2, 3)) > 0
    # not selected by [present]: the CPU would wait for their number
    return torch.where(present, 1 - 2 * overlap / total.clamp_min(1e-6), 0).sum()


def present_classes(mask: torch.Tensor, ignore_id: int, classes: int) -> torch.Tensor:
    """Number of (image, class present in it) pairs: (B, H, W) int64 -> scalar int64."""
    return present_ids(mask, ignore_id, classes).sum()


def ingredient_sum(logits: torch.Tensor, present: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Sum of the binary cross entropy of image-level predictions over the pairs (image, id) that are `known`.

    (B, K) float, (B, K) bool, (B, K) bool -> scalar float32. Divide by the number of known pairs.
    """
    each = binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none")
    return (each * known).sum()
