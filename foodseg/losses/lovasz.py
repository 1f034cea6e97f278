"""The Lovasz-Softmax loss: the intersection over union itself, made differentiable (Berman et al., CVPR 2018).

    lovasz_sum(logits, mask, ignore_id) / present_classes(mask, ignore_id, classes)

The Jaccard loss of a class, 1 - IoU, is a function of the set of its mispredicted pixels. Its Lovasz extension is the
tightest convex function that agrees with it on sets and takes the errors of the pixels, between 0 and 1.

Shapes: B images, K classes, h x w pixels.
"""

import torch


def lovasz_sum(logits: torch.Tensor, mask: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Sum over (image, class present in it) of the Lovasz extension of 1 - IoU, ignored pixels left out.

    Per image and not per batch, so that it is a sum over images however the batch is split over ranks.
    (B, K, h, w) float, (B, h, w) int64 -> scalar. Divide by `present_classes`.
    """
    own = mask.flatten(1)[:, None]
    present = (own == torch.arange(logits.shape[1], device=mask.device)[:, None]).any(2)
    # a few of the K classes: as many as any image holds. Of a GPU the CPU would wait for that number, so there it is K
    most = int(present.sum(1).max()) if mask.device.type == "cpu" else logits.shape[1]
    present, ids = present.int().topk(most, dim=1)
    probability = logits.softmax(1).flatten(2).gather(1, ids[..., None].expand(-1, -1, own.shape[2]))
    truth, valid = own == ids[..., None], own != ignore_id
    errors = torch.where(truth, 1 - probability, probability)
    order = torch.where(valid, errors, -1).argsort(dim=2, descending=True)  # ignored pixels last
    hits = truth.gather(2, order)
    others = (valid & ~truth).gather(2, order)
    # 1 - IoU where the first, first two, ... pixels of the order are wrong; ignored ones change nothing
    size = truth.sum(2, keepdim=True)
    loss = 1 - (size - hits.cumsum(2)) / (size + others.cumsum(2)).clamp_min(1)
    steps = loss.diff(dim=2, prepend=torch.zeros_like(loss[..., :1]))
    return (errors.gather(2, order) * steps * present[..., None]).sum()
