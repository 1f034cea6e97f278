"""Cross entropy of logits that are resized to the mask, summed over labelled pixels; and what is labelled in a mask.

Shapes: B images, K classes, H x W pixels of the mask, h x w of the logits.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import interpolate

from foodseg.classes import BACKGROUND
from foodseg.data.device_copy import to_device

# Float32 scores in one band of rows: as many as fit a processor's cache; a GPU is faster with few large kernels.
BAND_BYTES = {"cpu": 2**20, "cuda": 2**28}

# What a background pixel of one image may be: (n,) ids, background among them, and (n,) bool, which of them its mask
# holds, so that it is not these. None: background alone.
_Uncertain = tuple[torch.Tensor, torch.Tensor] | None


def sum_dtype(device: torch.device) -> torch.dtype:
    """Returns the type that long sums are taken in: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def cross_entropy_sum(
    logits: torch.Tensor,
    mask: torch.Tensor,
    ignore_id: int,
    unannotated: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    smoothing: float = 0.0,
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
        smoothing: share of the loss that is the mean over all classes (Szegedy et al., 2016).
    """
    uncertain = None if unannotated is None else _uncertain_ids(mask, ignore_id, unannotated)
    total: torch.Tensor = _ResizedCrossEntropy.apply(logits.float(), mask, ignore_id, uncertain, weights, smoothing)
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
        smoothing: float,
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
                loss, slope = _wide_cross_entropy(wide, to_rows, mask[image], counted, absorbed, smoothing)
                total += loss
                torch.matmul(slope, to_columns, out=gradient[image])
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None, None, None


def _linear_weights(size: int, wanted: int, device: torch.device) -> torch.Tensor:
    """Returns the (wanted, size) matrix of linear interpolation with half-pixel centres: resizing is a product."""
    return interpolate(torch.eye(size, device=device)[None], size=wanted, mode="linear")[0].T


def _wide_cross_entropy(
    wide: torch.Tensor,
    to_rows: torch.Tensor,
    mask: torch.Tensor,
    counted: torch.Tensor,
    absorbed: _Uncertain,
    smoothing: float,
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
        if smoothing > 0:
            own = torch.lerp(own, scores.mean(0), smoothing)
        total -= (own * weight).sum(dtype=total.dtype)
        # d sum / d scores, where labelled: softmax - one hot, or - softmax among the absorbed
        slope = scores.exp_().mul_(weight)
        slope.scatter_add_(0, truth, -(1 - smoothing) * certain[None])
        if smoothing > 0:
            slope -= weight * (smoothing / classes)
        if absorbed is not None:
            slope.index_add_(0, ids, share, alpha=smoothing - 1)
        gradient[:, first:last] += weights.T @ slope
    return total, gradient


def with_background(unannotated: torch.Tensor) -> torch.Tensor:
    return unannotated | (torch.arange(unannotated.shape[1]) == BACKGROUND)


def seen_ids(mask: torch.Tensor, ignore_id: int, classes: int) -> torch.Tensor:
    """(B, K) bool on the device, the foreground ids in the mask: these are annotated there, whatever U says."""
    seen = present_ids(mask, ignore_id, classes)
    seen[:, BACKGROUND] = False
    return seen


def _uncertain_ids(mask: torch.Tensor, ignore_id: int, unannotated: torch.Tensor) -> list[_Uncertain]:
    """Per image what a background pixel may be; found without waiting for the device, which alone knows the mask."""
    listed = [row.nonzero()[:, 0] for row in with_background(unannotated)]
    lengths = [len(ids) for ids in listed]
    on_device = to_device(torch.cat(listed), mask.device).split(lengths)
    seen = seen_ids(mask, ignore_id, unannotated.shape[1])
    return [(ids, row[ids]) if len(ids) > 1 else None for ids, row in zip(on_device, seen, strict=True)]


def labelled_pixels(mask: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Number of pixels that are not ignored: (B, H, W) int64 -> scalar int64."""
    return (mask != ignore_id).sum()


def present_ids(mask: torch.Tensor, ignore_id: int, classes: int) -> torch.Tensor:
    """(B, H, W) int64 -> (B, classes) bool, whether an image has a pixel of the id."""
    flat = torch.where(mask == ignore_id, classes, mask).flatten(1)
    seen = torch.zeros(mask.shape[0], classes + 1, dtype=torch.bool, device=mask.device)
    seen.scatter_(1, flat, True)
    return seen[:, :classes]
