"""Losses as sums and counts: summed here, divided in the loop by the count over all ranks and micro-batches.

Shapes: B pictures, K classes, H x W pixels of the mask, h x w of the logits.
"""

import torch
from torch.nn.functional import cross_entropy, interpolate, one_hot


def upsample_logits(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, K, h, w) -> (B, K, height, width), bilinear; float32 whatever the autocast type."""
    return interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)


def cross_entropy_sum(logits: torch.Tensor, mask: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Sum of the cross entropy over labelled pixels: (B, K, H, W) float, (B, H, W) int64 -> scalar.

    Divide by `labelled_pixels`.
    """
    return cross_entropy(logits, mask, ignore_index=ignore_id, reduction="sum")


def labelled_pixels(mask: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Number of pixels that are not ignored: (B, H, W) int64 -> scalar int64."""
    return (mask != ignore_id).sum()


def dice_sum(logits: torch.Tensor, mask: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Sum over (picture, class present in it) of 1 - Dice, ignored pixels left out (Milletari et al., V-Net, 2016).

    Per picture and not per batch, so that it is a sum over pictures however the batch is split over ranks.
    (B, K, H, W) float, (B, H, W) int64 -> scalar. Divide by `present_classes`.
    """
    classes = logits.shape[1]
    valid = mask != ignore_id
    probability = logits.softmax(dim=1) * valid[:, None]
    truth = one_hot(torch.where(valid, mask, 0), classes).movedim(-1, 1) * valid[:, None]
    overlap = (probability * truth).sum((2, 3))
    total = probability.sum((2, 3)) + truth.sum((2, 3))
    present = truth.sum((2, 3)) > 0
    return (1 - 2 * overlap / total.clamp_min(1e-6))[present].sum()


def present_classes(mask: torch.Tensor, ignore_id: int, classes: int) -> torch.Tensor:
    """Number of (picture, class present in it) pairs: (B, H, W) int64 -> scalar int64."""
    flat = torch.where(mask == ignore_id, classes, mask).flatten(1)
    seen = torch.zeros(mask.shape[0], classes + 1, dtype=torch.bool, device=mask.device)
    seen.scatter_(1, flat, True)
    return seen[:, :classes].sum()
