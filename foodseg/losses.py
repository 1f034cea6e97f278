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


def merge_unannotated(
    logits: torch.Tensor, mask: torch.Tensor, ignore_id: int, unannotated: torch.Tensor
) -> torch.Tensor:
    """Makes background stand for everything that the source of a picture does not name: partial labels.

    Where the source of a picture never annotates the ids U, its background may show any of them. So the picture is
    judged in the label space of its source: background has the probability p_0 + sum of p_u, the ids U have none.
    The logit of background becomes log(exp z_0 + sum of exp z_u) and those of U minus infinity; as the sum over all is
    the same as before, the other probabilities are too. The cross entropy of a background pixel is then
    -log(p_0 + sum of p_u) (Cermelli et al., Modeling the Background, 2020), that of any other pixel what it was.
    Dice needs no more than this either: it is summed over the classes in the mask, and U are not among them; background
    counts with its merged probability, so that calling a background pixel u neither helps nor hurts.

    An id that the mask of a picture holds all the same is evidently annotated there, and stays out of U.

    Args:
        logits: (B, K, H, W) float. mask: (B, H, W) int64.
        unannotated: (B, K) bool, U of each picture; False for background.

    Returns:
        (B, K, H, W) logits for the losses below; equal to `logits` in pictures without U.
    """
    hidden = unannotated & ~_present(mask, ignore_id, logits.shape[1])
    absorbed = hidden.clone()
    absorbed[:, 0] = True
    columns = absorbed.any(0).nonzero()[:, 0]  # the sum over fewer channels takes half the time
    parts = logits[:, columns].masked_fill(~absorbed[:, columns, None, None], -torch.inf)
    merged = logits.masked_fill(hidden[:, :, None, None], -torch.inf)
    merged[:, 0] = parts.logsumexp(dim=1)
    return merged


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
    return _present(mask, ignore_id, classes).sum()


def _present(mask: torch.Tensor, ignore_id: int, classes: int) -> torch.Tensor:
    """(B, H, W) int64 -> (B, classes) bool, whether a picture has a pixel of the id."""
    flat = torch.where(mask == ignore_id, classes, mask).flatten(1)
    seen = torch.zeros(mask.shape[0], classes + 1, dtype=torch.bool, device=mask.device)
    seen.scatter_(1, flat, True)
    return seen[:, :classes]
