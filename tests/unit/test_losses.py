"""Losses against numbers worked out by hand on 2 x 2 masks."""

import math

import pytest
import torch

from foodseg import losses
from foodseg.losses import cross_entropy_sum, dice_sum, labelled_pixels, present_classes, upsample_logits

IGNORE = 255


def two_class_logits(probability_of_1: list[list[float]]) -> torch.Tensor:
    """(1, 2, 2, 2) logits whose softmax gives class 1 these probabilities."""
    p = torch.tensor([probability_of_1])
    return torch.stack([torch.zeros_like(p), torch.log(p / (1 - p))], dim=1)


# softmax of class 1 is 3/4 on the left, 1/2 on the right
LOGITS = two_class_logits([[0.75, 0.5], [0.75, 0.5]])


@pytest.mark.parametrize(
    ("mask", "cross_entropy", "labelled"),
    [
        ([[1, 1], [0, 0]], math.log(4 / 3) + math.log(2) + math.log(4) + math.log(2), 4),
        ([[1, IGNORE], [IGNORE, 0]], math.log(4 / 3) + math.log(2), 2),
        ([[IGNORE, IGNORE], [IGNORE, 1]], math.log(2), 1),
        ([[IGNORE, IGNORE], [IGNORE, IGNORE]], 0.0, 0),
    ],
)
def test_cross_entropy(mask, cross_entropy, labelled):
    mask = torch.tensor([mask])
    assert cross_entropy_sum(LOGITS, mask, IGNORE).item() == pytest.approx(cross_entropy, abs=1e-6)
    assert labelled_pixels(mask, IGNORE).item() == labelled


@pytest.mark.parametrize("band_bytes", [1, 4 * 5 * 21 * 4, 2**20])  # one row, a few rows, all rows at once
@pytest.mark.parametrize(
    ("size", "mask_size"), [((4, 6), (16, 24)), ((3, 5), (13, 21)), ((7, 5), (7, 5)), ((8, 3), (3, 2))]
)
def test_cross_entropy_of_resized_logits_is_torchs_own(monkeypatch, band_bytes, size, mask_size):
    monkeypatch.setitem(losses.BAND_BYTES, "cpu", band_bytes)
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(2, 5, *size, generator=generator)).requires_grad_()
    mask = torch.randint(0, 5, (2, *mask_size), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORE
    expected = torch.nn.functional.cross_entropy(
        upsample_logits(logits, *mask_size), mask, ignore_index=IGNORE, reduction="sum"
    )
    (expected_gradient,) = torch.autograd.grad(2 * expected, logits)
    found = cross_entropy_sum(logits, mask, IGNORE)
    (gradient,) = torch.autograd.grad(2 * found, logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


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
    assert dice_sum(LOGITS, mask, IGNORE).item() == pytest.approx(dice, abs=1e-6)
    assert present_classes(mask, IGNORE, 2).item() == present


def test_sums_add_up_over_pictures():
    logits = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[[0, 1], [2, 3]], [[IGNORE, 1], [1, 1]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    for loss in (cross_entropy_sum, dice_sum):
        parts = sum(loss(logits[i : i + 1], mask[i : i + 1], IGNORE) for i in range(3))
        torch.testing.assert_close(loss(logits, mask, IGNORE), parts)
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
    assert cross_entropy_sum(logits, mask, IGNORE).item() == pytest.approx(0, abs=1e-6)
    assert dice_sum(logits, mask, IGNORE).item() == pytest.approx(0, abs=1e-6)


def test_sixteen_bit_ignore():
    mask = torch.tensor([[[1, 65535], [65535, 0]]])
    assert labelled_pixels(mask, 65535).item() == 2
    assert present_classes(mask, 65535, 2).item() == 2
    assert cross_entropy_sum(LOGITS, mask, 65535).item() == pytest.approx(math.log(4 / 3) + math.log(2), abs=1e-6)


def test_upsampling_is_bilinear_with_half_pixel_centres_in_float32():
    logits = torch.tensor([[[[0.0, 4.0]]]], dtype=torch.bfloat16)
    up = upsample_logits(logits, 1, 4)
    assert up.dtype == torch.float32
    assert up.flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
