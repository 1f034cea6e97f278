"""The Lovasz-Softmax loss: the intersection over union itself, made differentiable (Berman et al., CVPR 2018).

    lovasz_sum(logits, mask, ignore_id) / present_classes(mask, ignore_id, classes)

The Jaccard loss of a class, 1 - IoU, is a function of the set of its mispredicted pixels. Its Lovasz extension is the
tightest convex function that agrees with it on sets and takes the errors of the pixels, between 0 and 1.

Shapes: B images, K classes, h x w pixels, N pairs of an image and a class that is present in it.
"""

import torch


def lovasz_sum(logits: torch.Tensor, mask: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Sum over (image, class present in it) of the Lovasz extension of 1 - IoU, ignored pixels left out.

    Per image and not per batch, so that it is a sum over images however the batch is split over ranks.
    (B, K, h, w) float, (B, h, w) int64 -> scalar. Divide by `present_classes`.
    """
    one_of_each = torch.arange(logits.shape[1], device=mask.device)[:, None]
    # only the classes that are present are sorted, a few of K; for their number the CPU waits for a GPU
    images, ids = (mask.flatten(1)[:, None] == one_of_each).any(2).nonzero(as_tuple=True)
    probability = logits.softmax(1).flatten(2)[images, ids]
    own = mask.flatten(1)[images]
    truth, valid = own == ids[:, None], own != ignore_id
    errors = torch.where(truth, 1 - probability, probability)
    order = torch.where(valid, errors, -1).argsort(dim=1, descending=True)  # ignored pixels last
    hits = truth.gather(1, order)
    others = (valid & ~truth).gather(1, order)
    # 1 - IoU where the first, first two, ... pixels of the order are wrong; ignored ones change nothing
    size = truth.sum(1, keepdim=True)
    loss = 1 - (size - hits.cumsum(1)) / (size + others.cumsum(1))
    return (errors.gather(1, order) * loss.diff(dim=1, prepend=torch.zeros_like(loss[:, :1]))).sum()
