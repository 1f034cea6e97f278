"""Losses with soft labels against numpy, by hand at the edges, and what the cross entropy keeps of its size."""

import numpy as np
import pytest
import torch

from foodseg.config.distill import DistillConfig
from foodseg.config.loss import LossConfig
from foodseg.losses.cross_entropy import cross_entropy_sum
from foodseg.losses.soft_labels import (
    class_correlation_sum,
    pixel_correlation_sum,
    pixels_per_cell,
    soft_cross_entropy_sum,
    soft_label_losses,
    soft_targets,
)
from foodseg.losses.term import SoftTargets, Targets
from tests.support.compare import close

B, K, SIDE = 2, 5, 3
IGNORE = 255


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def logits(generator) -> torch.Tensor:
    return torch.randn(B, K, SIDE, SIDE, generator=generator)


@pytest.fixture
def target(generator) -> torch.Tensor:
    return torch.randn(B, K, SIDE, SIDE, generator=generator).softmax(1)


@pytest.fixture
def pixels(generator) -> torch.Tensor:
    return torch.randint(1, 17, (B, SIDE, SIDE), generator=generator).float()


def targets_of(mask: torch.Tensor, extent: torch.Tensor | None = None) -> Targets:
    whole = torch.tensor([[0, 0, *mask.shape[-2:]]] * len(mask))
    listed = torch.zeros(len(mask), K, dtype=torch.bool)
    known = torch.ones(len(mask), dtype=torch.bool)
    return Targets(mask, IGNORE, whole if extent is None else extent, None, listed, known, None)


def test_soft_cross_entropy(logits, target, pixels):
    shares = logits.double().softmax(1).log().numpy()
    expected = -(target.double().numpy() * shares).sum(1) * pixels.numpy()
    assert soft_cross_entropy_sum(logits, target, pixels).item() == close(expected.sum())


def test_with_certain_labels_it_is_the_cross_entropy_with_the_mask(logits):
    mask = torch.randint(0, K, (B, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    certain = torch.nn.functional.one_hot(mask, K).movedim(-1, 1).float()
    found = soft_cross_entropy_sum(logits, certain, torch.ones(B, SIDE, SIDE))
    assert found.item() == close(cross_entropy_sum(logits, mask, IGNORE).item())


def test_pixel_correlation(logits, target, pixels):
    own, other = logits.double().softmax(1).numpy(), target.double().numpy()
    expected = sum(
        float(pixels[b, y, x]) * (1 - np.corrcoef(own[b, :, y, x], other[b, :, y, x])[0, 1])
        for b in range(B)
        for y in range(SIDE)
        for x in range(SIDE)
    )
    assert pixel_correlation_sum(logits, target, pixels).item() == close(expected)


def test_class_correlation(logits, target, pixels):
    """Cells count by their pixels: as often as they cover some."""
    own, other = logits.double().softmax(1).numpy(), target.double().numpy()
    present = torch.tensor([[True, False, True, False, False], [False, False, False, False, True]])
    expected = 0.0
    for b, k in present.nonzero().tolist():
        times = pixels[b].flatten().int().numpy()
        expected += 1 - np.corrcoef(np.repeat(own[b, k].ravel(), times), np.repeat(other[b, k].ravel(), times))[0, 1]
    assert class_correlation_sum(logits, target, pixels, present).item() == close(expected)


def test_a_teacher_that_is_followed_exactly_costs_no_correlation(logits, pixels):
    target = logits.softmax(1)
    assert abs(pixel_correlation_sum(logits, target, pixels).item()) < 1e-4 * float(pixels.sum())
    present = torch.ones(B, K, dtype=torch.bool)
    assert abs(class_correlation_sum(logits, target, pixels, present).item()) < 1e-4 * B * K


def test_constant_maps_and_unknown_cells_have_finite_gradients():
    logits = torch.zeros(1, K, 2, 2, requires_grad=True)
    target = torch.zeros(1, K, 2, 2)
    target[0, 0, 0, 0] = 1
    pixels, present = torch.ones(1, 2, 2), torch.ones(1, K, dtype=torch.bool)
    total = pixel_correlation_sum(logits, target, pixels) + class_correlation_sum(logits, target, pixels, present)
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(logits.grad).all()
    assert pixel_correlation_sum(logits, target, pixels).item() == close(1), "three cells are unknown"
    nothing = torch.zeros_like(target)
    assert class_correlation_sum(logits, nothing, pixels, present).item() == close(K)


def test_sums_are_sums_over_images(logits, target, pixels):
    present = torch.ones(B, K, dtype=torch.bool)
    for whole, parts in (
        (soft_cross_entropy_sum(logits, target, pixels),
         [soft_cross_entropy_sum(logits[i : i + 1], target[i : i + 1], pixels[i : i + 1]) for i in range(B)]),
        (pixel_correlation_sum(logits, target, pixels),
         [pixel_correlation_sum(logits[i : i + 1], target[i : i + 1], pixels[i : i + 1]) for i in range(B)]),
        (class_correlation_sum(logits, target, pixels, present),
         [class_correlation_sum(logits[i : i + 1], target[i : i + 1], pixels[i : i + 1], present[i : i + 1])
          for i in range(B)]),
    ):  # fmt: skip
        assert whole.item() == close(sum(part.item() for part in parts))


def test_the_gate_is_open_where_the_label_is_the_teachers_and_where_an_unlabelled_pixel_has_a_confident_teacher():
    ids = torch.tensor([[[[1, 2], [3, 0]], [[4, 0], [2, 1]]]])  # two classes of each of 2 x 2 cells of 4 pixels
    scores = torch.tensor([[[[0.6, 0.4], [0.97, 0.03]], [[0.9, 0.1], [0.0, 0.0]]]])
    mask = torch.full((1, 8, 8), IGNORE)
    mask[0, :4, :4] = 1
    mask[0, 0, 0] = 2  # not the teacher's
    mask[0, 4:, 4:] = 2  # of which the teacher says nothing
    extent = torch.tensor([[0, 0, 8, 7]])  # the last column is padding
    found = soft_targets(ids, scores, targets_of(mask, extent), (2, 2), 0.5)
    assert found.gate.sum((1, 2)).tolist() == [15 + 4 * 3]
    assert found.gate[0, 0, 0] == 0 and found.gate[0, 0, 4] == 1 and found.gate[0, 0, 7] == 0
    assert pixels_per_cell(found).tolist() == [[[15, 12], [0, 0]]]
    assert found.probabilities[0, :, 0, 0].tolist() == close([0, 0.6, 0.4, 0, 0])
    assert found.probabilities[0, :, 1, 1].tolist() == [0] * K
    coarse = soft_targets(ids, scores, targets_of(mask, extent), (1, 1), 0.5).probabilities[0, :, 0, 0]
    assert coarse.tolist() == close([(0.03 + 0.1) / 3, 0.6 / 3, 0.4 / 3, 0.97 / 3, 0.9 / 3])


def test_the_share_is_convex():
    """With a teacher as certain as the mask, label and teacher together weigh what the label alone does."""
    gate = torch.tensor([[[1.0, 0.0]]])
    soft = SoftTargets(torch.zeros(1, K, 1, 2), gate, 0.3)
    assert (1 - soft.share * soft.gate).tolist() == [[[close(0.7), 1.0]]]


def test_terms_begin_after_the_warm_up():
    loss = LossConfig(soft_labels=0.5, class_correlation=0.2)
    terms = soft_label_losses(loss, DistillConfig(teacher=("runs/a",)), warmup=0.1, total_steps=20)
    active = [[term.name for term in terms if term.active(step)] for step in (0, 1, 2)]
    assert active == [[], [], ["soft_labels", "class_correlation", "gate"]]
    assert [term.weight(2) for term in terms] == [0.5, 0, 0.2, 0]
    assert soft_label_losses(LossConfig(), DistillConfig(), warmup=0.1, total_steps=20) == []
