"""Learning from images without masks: the averaged weights label them, where they are confident (FixMatch, UniMatch).

The teacher sees the plain view of an image, the student one of other colours in which a box was moved; the labels are
moved with it.

Shapes: B images, n of them without a mask, K classes, H x W pixels, h x w grid cells of the logits.
"""

import torch
from torch.nn.functional import cross_entropy

from foodseg.config.augment import AugmentConfig
from foodseg.config.loss import LossConfig
from foodseg.data.augment.cutmix import draw_box, move_box
from foodseg.data.augment.photometric import STRONG, jittered_view
from foodseg.data.batch import Batch
from foodseg.data.device_copy import to_device
from foodseg.losses.term import LossTerm, Outputs, Targets

CONFIDENT = 0.95  # least probability of a label (Sohn et al., FixMatch, 2020)


def pseudo_label_losses(loss: LossConfig) -> list[LossTerm]:
    """The term that learns from images without masks."""
    return [PseudoCrossEntropy(loss.pseudo_labels)]


class PseudoCrossEntropy(LossTerm):
    """Cross entropy with the teacher's label where it is confident, over all pixels of images without mask."""

    name = "pseudo_labels"
    needs_teacher = True

    def count(self, targets: Targets) -> torch.Tensor:
        return targets.real_mask()[without_mask(targets)].sum()

    def sum(self, targets: Targets, outputs: Outputs) -> torch.Tensor:
        rows, labels = without_mask(targets), outputs.pseudo_labels
        if labels is None:
            return 0 * outputs.student.logits.float().sum()
        pixels = targets.real_per_cell(outputs.student.logits, outputs.student.stride)[rows]
        logits = outputs.student.logits[rows].float()
        each = cross_entropy(logits, labels, ignore_index=targets.ignore_id, reduction="none")
        return (each * pixels).sum()


def without_mask(targets: Targets) -> torch.Tensor:
    """Returns (n,) int64 on the device, the images that have no mask."""
    return to_device((~targets.ingredients_known).nonzero()[:, 0], targets.mask.device)


def moved_view(
    view: torch.Tensor, batch: Batch, rows: torch.Tensor, mean: torch.Tensor, augment: AugmentConfig, cell: int
) -> torch.Tensor:
    """Returns the student's view (B, 3, H, W), in which images without mask have other colours and a moved box.

    Args:
        view: of all images, with the colours of `augment`. rows: (n,) int64 on the device, those without mask.
        cell: pixels of a grid cell.
    """
    seeds = _seeds(batch)
    changed = jittered_view(batch.image[rows], batch.extent[rows], mean, seeds, augment.model_copy(update=STRONG))
    height, width = (side // cell for side in changed.shape[-2:])
    moved = [
        move_box(own, draw_box(seed, height, width), cell) for own, seed in zip(changed, seeds.tolist(), strict=True)
    ]
    return view.index_copy(0, rows, torch.stack(moved))


def pseudo_labels(
    logits: torch.Tensor, batch: Batch, rows: torch.Tensor, targets: Targets, stride: int
) -> torch.Tensor:
    """Returns (n, h, w) int64, what a teacher says of images without mask, with the boxes of `moved_view` moved.

    Args:
        logits: (n, K, h, w), the teacher's, of the plain view of the images `rows`. stride: pixels of its cells.
    """
    confidence, best = logits.float().softmax(1).max(1)
    real = targets.real_per_cell(logits, stride)[rows] > 0
    labels = torch.where((confidence >= CONFIDENT) & real, best, targets.ignore_id)
    moved = [
        move_box(own, draw_box(seed, *own.shape), 1) for own, seed in zip(labels, _seeds(batch).tolist(), strict=True)
    ]
    return torch.stack(moved)


def _seeds(batch: Batch) -> torch.Tensor:
    return batch.seed[~batch.ingredients_known]
