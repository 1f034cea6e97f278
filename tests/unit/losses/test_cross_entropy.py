"""Cross entropy against numbers worked out by hand and against torch's own."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from foodseg.losses import cross_entropy as module
from foodseg.losses.cross_entropy import cross_entropy_sum, labelled_pixels
from foodseg.losses.segmentation import upsample_logits
from tests.support.compare import assert_close, close

IGNORE = 255

# two classes; softmax of class 1 is 3/4 on the left, 1/2 on the right
LOGITS = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[math.log(3), 0.0], [math.log(3), 0.0]]]])


@pytest.mark.parametrize(
    ("mask", "expected", "labelled"),
    [
        ([[1, 1], [0, 0]], math.log(4 / 3) + math.log(2) + math.log(4) + math.log(2), 4),
        ([[1, IGNORE], [IGNORE, 0]], math.log(4 / 3) + math.log(2), 2),
        ([[IGNORE, IGNORE], [IGNORE, 1]], math.log(2), 1),
        ([[IGNORE, IGNORE], [IGNORE, IGNORE]], 0.0, 0),
    ],
)
def test_cross_entropy(mask, expected, labelled):
    mask = torch.tensor([mask])
    assert cross_entropy_sum(LOGITS, mask, IGNORE).item() == close(expected)
    assert labelled_pixels(mask, IGNORE).item() == labelled


@pytest.mark.parametrize("band_bytes", [1, 4 * 5 * 21 * 4, 2**20])  # one row, a few rows, all rows at once
@pytest.mark.parametrize(
    ("size", "mask_size"), [((4, 6), (16, 24)), ((3, 5), (13, 21)), ((7, 5), (7, 5)), ((8, 3), (3, 2))]
)
def test_cross_entropy_of_resized_logits_is_torchs_own(monkeypatch, band_bytes, size, mask_size):
    monkeypatch.setitem(module.BAND_BYTES, "cpu", band_bytes)
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(2, 5, *size, generator=generator)).requires_grad_()
    mask = torch.randint(0, 5, (2, *mask_size), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.2] = IGNORE
    expected = cross_entropy(upsample_logits(logits, *mask_size), mask, ignore_index=IGNORE, reduction="sum")
    (expected_gradient,) = torch.autograd.grad(2 * expected, logits)
    found = cross_entropy_sum(logits, mask, IGNORE)
    (gradient,) = torch.autograd.grad(2 * found, logits)
    assert_close(found, expected)
    assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_merging_is_exact_for_large_logits(scale):
    """Against float64; 1 - p would be lost to rounding long before."""
    logits = scale * torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 4, 4, dtype=torch.int64)
    hidden = torch.tensor([[False, True, False, True, False]])
    found = cross_entropy_sum(logits, mask, IGNORE, hidden)
    exact = logits.double()
    expected = (exact.logsumexp(1) - exact[:, [0, 1, 3]].logsumexp(1)).sum()
    assert torch.isfinite(found) and found.item() == close(expected.item())


def resized(logits: torch.Tensor, mask: torch.Tensor, **options: float) -> torch.Tensor:
    """(B, H, W) torch's own cross entropy of each pixel, 0 where it is ignored."""
    wide = interpolate(logits, size=mask.shape[-2:], mode="bilinear")
    return cross_entropy(wide, mask, ignore_index=IGNORE, reduction="none", **options)


@pytest.fixture
def some() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(0, 5, (2, 6, 6), generator=generator)
    mask[0, 0] = IGNORE
    return torch.randn(2, 5, 3, 3, generator=generator).requires_grad_(), mask


def test_weights_of_pixels_scale_the_sum_and_its_gradient(some):
    logits, mask = some
    weights = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(2))
    found, expected = cross_entropy_sum(logits, mask, IGNORE, weights=weights), (resized(*some) * weights).sum()
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_is_torchs_own(some, smoothing):
    logits, mask = some
    found = cross_entropy_sum(logits, mask, IGNORE, smoothing=smoothing)
    expected = resized(*some, label_smoothing=smoothing).sum()
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_label_smoothing_of_a_pixel_that_may_be_unannotated():
    """p = (1/2, 1/4, 1/4), id 2 is never annotated: half of -log 3/4, half of the mean of -log p."""
    logits = torch.tensor([1 / 2, 1 / 4, 1 / 4]).log().view(1, 3, 1, 1).requires_grad_()
    hidden = torch.tensor([[False, False, True]])
    found = cross_entropy_sum(logits, torch.zeros(1, 1, 1, dtype=torch.int64), IGNORE, hidden, smoothing=0.5)
    assert found.item() == close(0.5 * math.log(4 / 3) + 0.5 * (math.log(2) + 2 * math.log(4)) / 3)
    found.backward()
    expected = [1 / 2 - 0.5 * 2 / 3 - 0.5 / 3, 1 / 4 - 0.5 / 3, 1 / 4 - 0.5 / 3 - 0.5 / 3]
    assert logits.grad.flatten().tolist() == close(expected)
