"""Losses as sums and counts: summed here, divided in the loop by the count over all ranks and micro-batches.

First the terms as objects, then the functions that they are made of.

Shapes: B images, K classes, H x W pixels of the mask, h x w of the logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, one_hot

from foodseg.classes import BACKGROUND
from foodseg.config.loss import LossConfig
from foodseg.data.device_copy import to_device
from foodseg.losses.lovasz import lovasz_sum
from foodseg.losses.term import LossTerm, Outputs, Targets

# Float32 scores in one band of rows: as many as fit a processor's cache; a GPU is faster with few large kernels.
BAND_BYTES = {"cpu": 2**20, "cuda": 2**28}

# What a background pixel of one image may be: (n,) ids, background among them, and (n,) bool, which of them its mask
# holds, so that it is not these. None: background alone.
_Uncertain = tuple[torch.Tensor, torch.Tensor] | None


def segmentation_losses(config: LossConfig, *, finest_stride: int, head_sees_conditioning: bool) -> list[LossTerm]:
    """The terms that learn from masks and from the classes on a crop.

    Args:
        finest_stride: pixels per cell of the logits, and of the score map's level.
        head_sees_conditioning: whether the features of the ingredient head depend on the conditioning classes.
    """
    return [
        CrossEntropy(config.cross_entropy),
        Dice(config.dice),
        Lovasz(config.lovasz, finest_stride),
        ScoreMapCrossEntropy(config.score_map, finest_stride),
        Ingredients(config.ingredients, head_sees_conditioning),
    ]


class CrossEntropy(LossTerm):
    """Cross entropy over labelled pixels, at the size of the mask."""

    name = "cross_entropy"

    def count(self, targets: Targets) -> torch.Tensor:
        return labelled_pixels(targets.mask, targets.ignore_id)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        weights = outputs.mask_weights
        return cross_entropy_sum(outputs.student.logits, targets.mask, targets.ignore_id, targets.unannotated, weights)


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
            logits = _merged(logits, targets.unannotated, _seen(mask, targets.ignore_id, logits.shape[1]))
        return lovasz_sum(logits, mask, targets.ignore_id)


@dataclass(frozen=True)
class ScoreMapCrossEntropy(LossTerm):
    """Cross entropy of the score map, on the mask at the stride of the finest level.

    That is enough for an auxiliary loss, and less work.
    """

    name = "score_map"
    stride: int

    def count(self, targets: Targets) -> torch.Tensor:
        return labelled_pixels(thinned(targets.mask, self.stride), targets.ignore_id)

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        scores = outputs.student.score_map
        assert scores is not None
        mask = thinned(targets.mask, self.stride)
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


def sum_dtype(device: torch.device) -> torch.dtype:
    """Returns the type that long sums are taken in: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def cross_entropy_sum(
    logits: torch.Tensor,
    mask: torch.Tensor,
    ignore_id: int,
    unannotated: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum of the cross entropy over labelled pixels, of logits that are first resized to the mask bilinearly.

    (B, K, h, w) float, (B, H, W) int64 -> scalar float32. Divide by `labelled_pixels`. Equal to cross entropy on
    `upsample_logits`, but made in bands of rows together with its gradient: the (B, K, H, W) scores, their softmax and
    its gradient never exist at once, which takes a quarter of the time on a CPU and next to no memory.

    From a source that does not annotate the ids U it cannot be learned that they are background: the loss of its
    background pixels is -log(p_0 + sum of p_u) (Cermelli et al., Modeling the Background, 2020), that of any other
    pixel stays as it is. An id that the mask of an image holds nevertheless is evidently annotated there, and is not in
    U.

    Args:
        unannotated: (B, K) bool on the CPU, U of each image; False for background. None = every id is annotated.
        weights: (B, H, W) float32 that the pixels are multiplied by; None = 1.
    """
    uncertain = None if unannotated is None else _uncertain_ids(mask, ignore_id, unannotated)
    total: torch.Tensor = _ResizedCrossEntropy.apply(logits.float(), mask, ignore_id, uncertain, weights)
    return total


class _ResizedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        mask: torch.Tensor,
        ignore_id: int,
        uncertain: list[_Uncertain] | None,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        to_rows = _linear_weights(logits.shape[2], mask.shape[1], logits.device)
        to_columns = _linear_weights(logits.shape[3], mask.shape[2], logits.device)
        total = logits.new_zeros((), dtype=sum_dtype(logits.device))
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        with torch.autocast(logits.device.type, enabled=False):
            for image in range(len(logits)):
                wide = logits[image].contiguous() @ to_columns.T
                absorbed = None if uncertain is None else uncertain[image]
                counted = (mask[image] != ignore_id).float()
                if weights is not None:
                    counted *= weights[image]
                loss, slope = _wide_cross_entropy(wide, to_rows, mask[image], counted, absorbed)
                total += loss
                torch.matmul(slope, to_columns, out=gradient[image])
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None, None


def _linear_weights(size: int, wanted: int, device: torch.device) -> torch.Tensor:
    """Returns the (wanted, size) matrix of linear interpolation with half-pixel centres: resizing is a product."""
    return interpolate(torch.eye(size, device=device)[None], size=wanted, mode="linear")[0].T


def _wide_cross_entropy(
    wide: torch.Tensor, to_rows: torch.Tensor, mask: torch.Tensor, counted: torch.Tensor, absorbed: _Uncertain
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the sum over one image and d sum / d wide.

    (K, h, W) logits, (H, h) weights of rows, (H, W) mask, (H, W) float32 weight of each pixel, 0 where it is ignored.
    """
    classes, rows, width = wide.shape
    height = len(mask)
    total = wide.new_zeros((), dtype=sum_dtype(wide.device))
    gradient = torch.zeros_like(wide)
    step = max(1, BAND_BYTES.get(wide.device.type, 2**20) // (4 * classes * width))
    for top in range(0, height, step):
        bottom = min(height, top + step)
        # the rows of `wide` that these rows of the mask are between
        first = max(0, int((top + 0.5) * rows / height - 0.5))
        last = min(rows, int((bottom - 0.5) * rows / height - 0.5) + 2)
        weights = to_rows[top:bottom, first:last]
        scores = (weights @ wide[:, first:last]).log_softmax(0)
        weight = counted[top:bottom]
        truth = torch.where(weight > 0, mask[top:bottom], 0)[None]
        own = scores.gather(0, truth)[0]
        certain = weight
        if absorbed is not None:
            ids, seen = absorbed
            among = scores[ids].masked_fill_(seen[:, None, None], -torch.inf)
            together = among.logsumexp(0)
            uncertain = truth[0] == 0
            own = torch.where(uncertain, together, own)
            certain = weight * ~uncertain
            share = among.sub_(together).exp_().mul_(weight * uncertain)
        total -= (own * weight).sum(dtype=total.dtype)
        # d sum / d scores, where labelled: softmax - one hot, or - softmax among the absorbed
        slope = scores.exp_().mul_(weight)
        slope.scatter_add_(0, truth, -certain[None])
        if absorbed is not None:
            slope.index_add_(0, ids, share, alpha=-1)
        gradient[:, first:last] += weights.T @ slope
    return total, gradient


def _with_background(unannotated: torch.Tensor) -> torch.Tensor:
    return unannotated | (torch.arange(unannotated.shape[1]) == BACKGROUND)


def _seen(mask: torch.Tensor, ignore_id: int, classes: int) -> torch.Tensor:
    """(B, K) bool on the device, the foreground ids in the mask: these are annotated there, whatever U says."""
    seen = present_ids(mask, ignore_id, classes)
    seen[:, BACKGROUND] = False
    return seen


def _uncertain_ids(mask: torch.Tensor, ignore_id: int, unannotated: torch.Tensor) -> list[_Uncertain]:
    """Per image what a background pixel may be; found without waiting for the device, which alone knows the mask."""
    listed = [row.nonzero()[:, 0] for row in _with_background(unannotated)]
    lengths = [len(ids) for ids in listed]
    on_device = to_device(torch.cat(listed), mask.device).split(lengths)
    seen = _seen(mask, ignore_id, unannotated.shape[1])
    return [(ids, row[ids]) if len(ids) > 1 else None for ids, row in zip(on_device, seen, strict=True)]


def _merged(logits: torch.Tensor, unannotated: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(B, K, H, W) logits with the probability of U, without the ids `seen` (B, K), moved to background."""
    possible = _with_background(unannotated)
    absorbed = to_device(possible, logits.device) & ~seen
    # the sum over fewer channels takes half the time
    columns = to_device(possible.any(0).nonzero()[:, 0], logits.device)
    parts = logits[:, columns].masked_fill(~absorbed[:, columns, None, None], -torch.inf)
    merged = logits.masked_fill(absorbed[:, :, None, None], -torch.inf)
    merged[:, 0] = parts.logsumexp(dim=1)
    return merged


def labelled_pixels(mask: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Number of pixels that are not ignored: (B, H, W) int64 -> scalar int64."""
    return (mask != ignore_id).sum()


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
        logits = _merged(logits, unannotated, _seen(mask, ignore_id, classes))
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


def present_ids(mask: torch.Tensor, ignore_id: int, classes: int) -> torch.Tensor:
    """(B, H, W) int64 -> (B, classes) bool, whether an image has a pixel of the id."""
    flat = torch.where(mask == ignore_id, classes, mask).flatten(1)
    seen = torch.zeros(mask.shape[0], classes + 1, dtype=torch.bool, device=mask.device)
    seen.scatter_(1, flat, True)
    return seen[:, :classes]


def ingredient_sum(logits: torch.Tensor, present: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Sum of the binary cross entropy of image-level predictions over the pairs (image, id) that are `known`.

    (B, K) float, (B, K) bool, (B, K) bool -> scalar float32. Divide by the number of known pairs.
    """
    each = binary_cross_entropy_with_logits(logits.float(), present.float(), reduction="none")
    return (each * known).sum()
