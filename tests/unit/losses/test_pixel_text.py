"""Pixel-text and image-text cross entropy against numbers worked out by hand."""

import math

import pytest
import torch

from foodseg.config.loss import LossConfig
from foodseg.losses.pixel_text import ImageText, PixelText, image_text_sum, pixel_text_losses
from foodseg.losses.segmentation import CrossEntropy
from foodseg.losses.term import Outputs, SoftTargets, Targets
from foodseg.models.segmenter import SegmenterOutput
from tests.support.compare import close

IGNORE = 255


def targets(mask, ingredients, known=True, unannotated=None, extent=None) -> Targets:
    mask = torch.tensor([mask])
    return Targets(
        mask=mask,
        ignore_id=IGNORE,
        extent=torch.tensor([extent or [0, 0, *mask.shape[1:]]], dtype=torch.int32),
        unannotated=None if unannotated is None else torch.tensor([unannotated]),
        ingredients=torch.tensor([ingredients]),
        ingredients_known=torch.tensor([known]),
        conditioning=None,
    )


def outputs(logits: torch.Tensor, linear: torch.Tensor | None = None, soft: SoftTargets | None = None) -> Outputs:
    return Outputs(SegmenterOutput(logits, 1, None, logits, linear_logits=linear), soft_targets=soft)


def test_pixel_text_is_the_cross_entropy_of_the_cosines_over_the_temperature():
    # one pixel has cosines 0.6 and 0.5 and is of class 0, the other 0.1 and 0.3 and is of class 1, one is ignored
    cosines = torch.tensor([[[[0.6, 0.1, 1.0]], [[0.5, 0.3, -1.0]]]])
    known = targets([[0, 1, IGNORE]], [False, True])
    term = PixelText(1.0)
    expected = math.log(1 + math.exp(-0.1 / 0.07)) + math.log(1 + math.exp(-0.2 / 0.07))
    assert term.sum(known, outputs(cosines / 0.07)).item() == close(expected)
    assert term.count(known).item() == 2


def test_with_both_classifiers_each_has_its_own_term():
    known = targets([[0, 1]], [False, True])
    even, sure = torch.zeros(1, 2, 1, 2), torch.tensor([[[[9.0, -9]], [[-9, 9]]]])
    both = outputs(sure, even)
    assert CrossEntropy(1.0).sum(known, both).item() == close(2 * math.log(2))
    assert PixelText(1.0).sum(known, both).item() == close(0.0)
    assert CrossEntropy(1.0).sum(known, outputs(even)).item() == close(2 * math.log(2))


def test_a_teacher_takes_its_share_of_the_logits_that_are_kept_alone():
    known = targets([[0, 1]], [False, True])
    even = torch.zeros(1, 2, 1, 2)
    soft = SoftTargets(even, torch.tensor([[[1.0, 0.0]]]), share=0.5)
    assert PixelText(1.0).sum(known, outputs(even, even, soft)).item() == close(1.5 * math.log(2))
    assert CrossEntropy(1.0).sum(known, outputs(even, even, soft)).item() == close(2 * math.log(2))


def test_image_text_is_the_cross_entropy_of_the_mean_with_the_classes_on_the_image():
    # foreground means over the two real cells: (1, 2, 3); the third cell is padding
    logits = torch.tensor([[[5.0, 7, 50]], [[0, 2, 50]], [[2, 2, 50]], [[4, 2, 50]]])[None].reshape(1, 4, 1, 3)
    total = math.log(math.exp(1) + math.exp(2) + math.exp(3))
    term = ImageText(1.0)
    known = targets([[1, 3, IGNORE]], [False, True, False, True], extent=[0, 0, 1, 2])
    assert term.sum(known, outputs(logits)).item() == close(total - (1 + 3) / 2)
    assert term.count(known).item() == 1
    # class 2 is never annotated by the source: it does not compete
    partly = targets([[1, 3, IGNORE]], [False, True, False, True], unannotated=[False, False, True, False],
                     extent=[0, 0, 1, 2])  # fmt: skip
    assert term.sum(partly, outputs(logits)).item() == close(math.log(math.exp(1) + math.exp(3)) - 2)


@pytest.mark.parametrize(("present", "known"), [([False, True], False), ([False, False], True)])
def test_an_image_of_which_nothing_is_known_counts_nothing(present, known):
    logits = torch.randn(1, 2, 1, 2, requires_grad=True)
    nothing = targets([[0, 1]], present, known)
    found = ImageText(1.0).sum(nothing, outputs(logits))
    found.backward()
    assert found.item() == 0 and ImageText(1.0).count(nothing).item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_all_foods_left_out_has_no_gradient():
    logits = torch.randn(1, 3, 1, 1, requires_grad=True)
    out, pixels = torch.tensor([[True, True, True]]), torch.ones(1, 1, 1)
    image_text_sum(logits, pixels, ~out, out).backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_the_terms_are_called_as_their_keys():
    terms = pixel_text_losses(LossConfig(pixel_text=0.7, image_text=0.2, label_smoothing=0.1))
    assert [(term.name, term.weight(0)) for term in terms] == [("pixel_text", 0.7), ("image_text", 0.2)]
    assert terms[0].smoothing == 0.1
