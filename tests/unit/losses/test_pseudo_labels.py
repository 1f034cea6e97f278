"""Images without masks: what they learn, from which view, and that images with masks have no part in it."""

import math
from dataclasses import replace

import numpy as np
import torch

from foodseg.config.augment import AugmentConfig
from foodseg.config.loss import LossConfig
from foodseg.data.augment.cutmix import draw_box
from foodseg.data.batch import Batch
from foodseg.losses.pseudo_labels import moved_view, pseudo_label_losses, pseudo_labels, without_mask
from foodseg.losses.term import Outputs, Targets
from foodseg.models.segmenter import SegmenterOutput
from tests.support.compare import assert_close, close

IGNORE, SIDE, CELL = 255, 16, 4
MEAN = torch.full((1, 3, 1, 1), 0.5)
COLOURS = AugmentConfig(contrast=(1, 1), brightness=0, crop=SIDE)


def batch_of(known: list[bool], bottom: int = SIDE) -> Batch:
    count = len(known)
    rng = np.random.default_rng(0)
    return Batch.from_arrays(
        {
            "image": rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8),
            "mask": np.full((count, SIDE, SIDE), IGNORE, np.uint8),
            "extent": np.array([[0, 0, bottom, SIDE]] * count, np.int32),
            "seed": np.arange(count, dtype=np.int64),
            "position": np.arange(count, dtype=np.int64),
            "source": np.zeros(count, np.int16),
            "ingredients": np.zeros((count, 3), bool),
            "ingredients_known": np.array(known),
        }
    )


def targets_of(batch: Batch) -> Targets:
    mask = batch.mask.long()
    return Targets(mask, IGNORE, batch.extent, None, batch.ingredients, batch.ingredients_known, None)


def term():
    (found,) = pseudo_label_losses(LossConfig(pseudo_labels=0.5))
    return found


def test_every_real_pixel_counts_and_only_confident_ones_cost():
    batch = batch_of([True, False], bottom=12)
    targets = targets_of(batch)
    logits = torch.zeros(2, 3, 4, 4)
    labels = torch.full((1, 4, 4), IGNORE)
    labels[0, 0, :2] = 1
    labels[0, 3] = 2  # padding
    outputs = Outputs(SegmenterOutput(logits, CELL, None, logits), pseudo_labels=labels)
    assert term().count(targets).item() == 12 * 16
    assert term().sum(targets, outputs).item() == close(2 * 16 * math.log(3))


def test_images_with_masks_alone_cost_nothing():
    batch = batch_of([True, True])
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    found = term().sum(targets_of(batch), Outputs(SegmenterOutput(logits, CELL, None, logits)))
    found.backward()
    assert found.item() == 0 and not logits.grad.any() and term().count(targets_of(batch)).item() == 0


def test_the_teacher_labels_where_it_is_confident_and_not_padding():
    batch = batch_of([False], bottom=8)
    targets, rows = targets_of(batch), torch.tensor([0])
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 1, :, :2] = 10.0
    logits[0, 2, :, 2:] = 2.0  # probability 0.79
    found = pseudo_labels(logits, batch, rows, targets, CELL)
    whole = torch.full((4, 4), IGNORE)
    whole[:2, :2] = 1
    rows_from, columns_from, rows_to, columns_to = draw_box(0, 4, 4)
    expected = whole.clone()
    expected[rows_to, columns_to] = whole[rows_from, columns_from]
    assert torch.equal(found[0], expected)


def test_labels_move_with_the_pixels():
    """The colour of each cell is its number; so is its label."""
    batch = batch_of([False, True, False])
    colours = torch.arange(16).view(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    image = (colours * 16).to(torch.uint8).expand(3, 3, SIDE, SIDE)
    batch = replace(batch, image=image)
    rows = without_mask(targets_of(batch))
    assert rows.tolist() == [0, 2]
    logits = 50 * torch.nn.functional.one_hot(torch.arange(16), 16).float().T.view(1, 16, 4, 4).expand(2, -1, -1, -1)
    targets = replace(targets_of(batch), ingredients=torch.zeros(3, 16, dtype=torch.bool))
    labels = pseudo_labels(logits, batch, rows, targets, CELL)
    plain = image.float() / 255
    view = moved_view(plain, batch, rows, MEAN, COLOURS, CELL)
    assert torch.equal(view[1], plain[1]), "an image with a mask keeps its view"
    for own, label in zip(view[rows], labels, strict=True):
        # blur and light change the colours, not their order: the darkest cell of the view is the smallest label
        cells = own.mean(0).view(4, 4, 4, 4).mean((1, 3)).flatten()
        ranked = cells[label.flatten().argsort(stable=True)]
        assert (ranked.diff() > -0.02).all()


def test_a_row_has_its_view_in_any_batch():
    whole = batch_of([False, False, True])
    alone = Batch(**{name: None if value is None else value[1:2] for name, value in vars(whole).items()})
    views = []
    for batch in (whole, alone):
        rows = without_mask(targets_of(batch))
        views.append(moved_view(batch.image.float() / 255, batch, rows, MEAN, COLOURS, CELL))
    assert_close(views[0][1:2], views[1])
