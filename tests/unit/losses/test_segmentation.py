"""Losses against numbers worked out by hand on 2 x 2 masks."""

import math

import pytest
import torch

from foodseg.losses.cross_entropy import cross_entropy_sum, labelled_pixels
from foodseg.losses.segmentation import dice_sum, ingredient_sum, present_classes, upsample_logits
from tests.support.compare import assert_close, close

IGNORE = 255


def two_class_logits(probability_of_1: list[list[float]]) -> torch.Tensor:
    """(1, 2, 2, 2) logits whose softmax gives class 1 these probabilities."""
    p = torch.tensor([probability_of_1])
    return torch.stack([torch.zeros_like(p), torch.log(p / (1 - p))], dim=1)


# softmax of class 1 is 3/4 on the left, 1/2 on the right
LOGITS = two_class_logits([[0.75, 0.5], [0.75, 0.5]])


@pytest.mark.parametrize(
    ("mask", "dice", "present"),
    [
        # class 1: overlap 0.75 + 0.5, sizes 2.5 and 2; class 0: overlap 0.25 + 0.5, sizes 1.5 and 2
        ([[1, 1], [0, 0]], (1 - 2.5 / 4.5) + (1 - 1.5 / 3.5), 2),
        # class 0 is absent: no term for it. class 1: overlap 2.5, sizes 2.5 and 4
        ([[1, 1], [1, 1]], 1 - 5 / 6.5, 1),
        # ignored pixels count on neither side: class 1 overlap 0.75, sizes 1.25 and 1; class 0: 0.5, 0.75 and 1
        ([[1, IGNORE], [IGNORE, 0]], (1 - 1.5 / 2.25) + (1 - 1 / 1.75), 2),
        ([[IGNORE, IGNORE], [IGNORE, IGNORE]], 0.0, 0),
    ],
)
def test_dice(mask, dice, present):
    mask = torch.tensor([mask])
    assert dice_sum(LOGITS, mask, IGNORE).item() == close(dice)
    assert present_classes(mask, IGNORE, 2).item() == present


def test_sums_add_up_over_images():
    logits = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[[0, 1], [2, 3]], [[IGNORE, 1], [1, 1]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    for loss in (cross_entropy_sum, dice_sum):
        parts = sum(loss(logits[i : i + 1], mask[i : i + 1], IGNORE) for i in range(3))
        assert_close(loss(logits, mask, IGNORE), parts)
    assert labelled_pixels(mask, IGNORE).item() == 7
    assert present_classes(mask, IGNORE, 4).item() == 5


@pytest.mark.parametrize("loss", [cross_entropy_sum, dice_sum])
def test_all_ignored_has_a_gradient_of_zero(loss):
    logits = LOGITS.clone().requires_grad_()
    loss(logits, torch.full((1, 2, 2), IGNORE), IGNORE).backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_pixels_have_no_gradient():
    for loss in (cross_entropy_sum, dice_sum):
        logits = LOGITS.clone().requires_grad_()
        loss(logits, torch.tensor([[[1, IGNORE], [1, 0]]]), IGNORE).backward()
        assert (logits.grad[0, :, 0, 1] == 0).all()
        assert (logits.grad[0, :, 0, 0] != 0).all()


def test_perfect_prediction_costs_nothing():
    mask = torch.tensor([[[0, 1], [2, 2]]])
    logits = 100 * torch.nn.functional.one_hot(mask, 4).movedim(-1, 1).float()
    assert cross_entropy_sum(logits, mask, IGNORE).item() == close(0)
    assert dice_sum(logits, mask, IGNORE).item() == pytest.approx(0, abs=1e-5)


def test_sixteen_bit_ignore():
    mask = torch.tensor([[[1, 65535], [65535, 0]]])
    assert labelled_pixels(mask, 65535).item() == 2
    assert present_classes(mask, 65535, 2).item() == 2
    assert cross_entropy_sum(LOGITS, mask, 65535).item() == close(math.log(4 / 3) + math.log(2))


def test_upsampling_is_bilinear_with_half_pixel_centres_in_float32():
    logits = torch.tensor([[[[0.0, 4.0]]]], dtype=torch.bfloat16)
    up = upsample_logits(logits, 1, 4)
    assert up.dtype == torch.float32
    assert up.flatten().tolist() == close([0, 1, 3, 4])


# --- partial labels ---

# one image of 1 x 2 pixels, three ids; id 2 is never annotated
PAIR = torch.tensor([[1 / 2, 1 / 4, 1 / 4], [1 / 6, 1 / 3, 1 / 2]]).log().T[None, :, None, :]
HIDES_2 = torch.tensor([[False, False, True]])


@pytest.mark.parametrize(
    ("mask", "cross_entropy", "dice"),
    [
        # background may be id 2: 1/2 + 1/4 on the left. Merged, id 0 has 3/4 and 2/3, id 1 has 1/4 and 1/3
        ([0, 1], math.log(4 / 3) + math.log(3), (1 - 1.5 / (17 / 12 + 1)) + (1 - (2 / 3) / (7 / 12 + 1))),
        ([0, 0], math.log(4 / 3) + math.log(3 / 2), 1 - (17 / 6) / (17 / 12 + 2)),
        ([1, 1], math.log(4) + math.log(3), 1 - (7 / 6) / (7 / 12 + 2)),
        ([0, IGNORE], math.log(4 / 3), 1 - 1.5 / (3 / 4 + 1)),
        # the mask has id 2, so that it is annotated after all
        ([0, 2], math.log(2) + math.log(2), (1 - 1 / (2 / 3 + 1)) + (1 - 1 / (3 / 4 + 1))),
        ([IGNORE, IGNORE], 0.0, 0.0),
    ],
)
def test_partial_labels_by_hand(mask, cross_entropy, dice):
    mask = torch.tensor([[mask]])
    assert cross_entropy_sum(PAIR, mask, IGNORE, HIDES_2).item() == close(cross_entropy)
    assert dice_sum(PAIR, mask, IGNORE, HIDES_2).item() == close(dice)


def test_the_gradient_pulls_towards_background_or_the_unannotated():
    """Left: p_k - p_k / (p_0 + p_2) for k = 0, 2 and p_k for k = 1. Right: p_k - [k = 1], as ever."""
    logits = PAIR.clone().requires_grad_()
    mask = torch.tensor([[[0, 1]]])
    cross_entropy_sum(logits, mask, IGNORE, HIDES_2).backward()
    expected = [[1 / 2 - 2 / 3, 1 / 4, 1 / 4 - 1 / 3], [1 / 6, 1 / 3 - 1, 1 / 2]]
    assert_close(logits.grad[0, :, 0].T, torch.tensor(expected))


def test_dice_does_not_mind_which_of_background_and_unannotated_it_is():
    mask = torch.tensor([[[0, 1]]])
    swapped = PAIR.clone()
    swapped[0, 0, 0, 0], swapped[0, 2, 0, 0] = PAIR[0, 2, 0, 0], PAIR[0, 0, 0, 0]
    ways = [dice_sum(way, mask, IGNORE, HIDES_2) for way in (PAIR, swapped)]
    assert_close(*ways)


@pytest.mark.parametrize("loss", [cross_entropy_sum, dice_sum])
def test_annotating_everything_is_the_plain_loss(loss):
    logits = 5 * torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.randint(0, 4, (2, 3, 5), generator=torch.Generator().manual_seed(2))
    mask[0, 0] = IGNORE
    gradients = []
    for unannotated in (None, torch.zeros(2, 4, dtype=torch.bool)):
        own = logits.clone().requires_grad_()
        loss(own, mask, IGNORE, unannotated).backward()
        gradients.append(own.grad)
    assert_close(*gradients)


@pytest.mark.parametrize("loss", [cross_entropy_sum, dice_sum])
def test_each_image_has_its_own_source(loss):
    logits = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[[0, 1], [0, 3]], [[0, 0], [IGNORE, 1]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    hidden = torch.tensor([[False] * 4, [False, False, True, True], [False, True, True, True]])
    parts = sum(loss(logits[i : i + 1], mask[i : i + 1], IGNORE, hidden[i : i + 1]) for i in range(3))
    assert_close(loss(logits, mask, IGNORE, hidden), parts)
    assert_close(loss(logits[:1], mask[:1], IGNORE, hidden[:1]), loss(logits[:1], mask[:1], IGNORE))


@pytest.mark.parametrize("loss", [cross_entropy_sum, dice_sum])
def test_partial_labels_never_give_nan(loss):
    logits = torch.tensor([1000.0, -1000.0, 0.0, 500.0]).view(1, 4, 1, 1).repeat(1, 1, 2, 3).requires_grad_()
    for mask in ([[0, 0, 1], [1, 2, IGNORE]], [[IGNORE] * 3] * 2, [[3] * 3] * 2):
        mask = torch.tensor([mask])
        value = loss(logits, mask, IGNORE, torch.tensor([[False, False, True, True]]))
        value.backward()
        assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


# --- which ingredients are on the image ---


def test_ingredients_by_hand():
    """Predictions 3/4, 1/2, 9/10 for ids that are present, absent, unknown."""
    logits = torch.tensor([[3.0, 1.0, 9.0]]).log().requires_grad_()
    present = torch.tensor([[True, False, True]])
    known = torch.tensor([[True, True, False]])
    found = ingredient_sum(logits, present, known)
    assert found.item() == close(math.log(4 / 3) + math.log(2))
    found.backward()
    assert_close(logits.grad, torch.tensor([[-0.25, 0.5, 0.0]]))


def test_ingredients_of_nothing_known_have_a_gradient_of_zero():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    none = torch.zeros(2, 5, dtype=torch.bool)
    ingredient_sum(logits, none, none).backward()
    assert torch.equal(logits.grad, torch.zeros(2, 5))
