"""The distillation losses against numbers worked out by hand on 2 x 2 maps."""

import math

import pytest
import torch

from foodseg.data.augment.photometric import real_pixels, real_pixels_per_cell
from foodseg.losses.distillation import (
    attention_divergence_sum,
    deeper_distance_sum,
    divergence_sum,
    feature_distance_sum,
    ramp,
)
from tests.support.compare import assert_close, close


def two_class_logits(probability_of_1: list[list[float]]) -> torch.Tensor:
    """(1, 2, 2, 2) logits whose softmax gives class 1 these probabilities."""
    p = torch.tensor([probability_of_1])
    return torch.stack([torch.zeros_like(p), torch.log(p / (1 - p))], dim=1)


STUDENT = [[0.75, 0.5], [0.75, 0.5]]
TEACHER = [[0.5, 0.5], [0.25, 0.75]]
# (1/2) log(1/2 / 1/4) + (1/2) log(1/2 / 3/4), 0, (3/4) log 3 + (1/4) log 1/3, and so on
EACH = [[math.log(4 / 3) / 2, 0.0], [math.log(3) / 2, 0.75 * math.log(1.5) + 0.25 * math.log(0.5)]]


@pytest.mark.parametrize("pixels", [[[4, 4], [4, 4]], [[4, 4], [2, 0]], [[0, 3], [0, 1]], [[0, 0], [0, 0]]])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_by_hand(pixels, temperature):
    """Logits T times as large have the same softened probabilities: what is left of T is the factor T^2."""
    student, teacher = (temperature * two_class_logits(p) for p in (STUDENT, TEACHER))
    found = divergence_sum(student, teacher, torch.tensor([pixels]).float(), temperature)
    expected = sum(n * kl for row, values in zip(pixels, EACH, strict=True) for n, kl in zip(row, values, strict=True))
    assert found.dtype == torch.float32
    assert found.item() == close(temperature**2 * expected)


def test_the_mean_is_over_pixels_that_are_not_padding_labelled_or_not():
    """4 x 4 pixels at stride 2, of which the last row is padding: 12 pixels, the lower cells weigh half."""
    extent = torch.tensor([[0, 0, 3, 4]], dtype=torch.int32)
    pixels = real_pixels_per_cell(extent, 2, 2, 2)
    assert pixels.tolist() == [[[4, 4], [2, 2]]]
    count = real_pixels(extent, 4, 4).sum()
    assert count.item() == 12 and pixels.sum().item() == close(12)
    mean = divergence_sum(two_class_logits(STUDENT), two_class_logits(TEACHER), pixels, 1.0) / count
    assert mean.item() == close((2 * EACH[0][0] + EACH[1][0] + EACH[1][1]) / 6)


def test_the_gradient_is_t_times_the_difference_of_the_softened_probabilities():
    student, teacher = (2 * two_class_logits(p) for p in (STUDENT, TEACHER))
    student.requires_grad_()
    pixels = torch.tensor([[[4.0, 4.0], [2.0, 0.0]]])
    divergence_sum(student, teacher, pixels, 2.0).backward()
    expected = 2 * (torch.tensor([STUDENT]) - torch.tensor([TEACHER])) * pixels
    assert_close(student.grad[:, 1], expected)
    assert_close(student.grad[:, 0], -expected)


def test_a_student_that_agrees_has_nothing_to_learn():
    logits = 9 * torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    own = logits.clone().requires_grad_()
    value = divergence_sum(own, logits, torch.ones(2, 3, 4), 2.0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-4)  # a sum of 24 cells, times 4
    assert own.grad.abs().max() < 1e-5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_divergence_is_torchs_own_for_many_classes(temperature):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (4 * torch.randn(2, 9, 3, 5, generator=generator) for _ in range(2))
    pixels = torch.rand(2, 3, 5, generator=generator)
    each = torch.nn.functional.kl_div(
        (student / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="none"
    ).sum(1)
    expected = temperature**2 * (each * pixels).sum()
    assert_close(divergence_sum(student, teacher, pixels, temperature), expected)


def test_no_gradient_goes_to_the_teacher():
    student, teacher = (torch.randn(1, 3, 2, 2, requires_grad=True) for _ in range(2))
    pixels = torch.ones(1, 2, 2)
    (divergence_sum(student, teacher, pixels, 2.0) + feature_distance_sum(student, teacher, pixels)).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1000.0, -1000.0], [0.0, 0.0]]).view(1, 2, 1, 2).requires_grad_()
    teacher = torch.tensor([[-1000.0, 1000.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    value = divergence_sum(student, teacher, torch.ones(1, 1, 2), 1.0)
    value.backward()
    assert value.item() == close(2000) and torch.isfinite(student.grad).all()


def test_half_precision_is_compared_in_float32():
    student, teacher = two_class_logits(STUDENT), two_class_logits(TEACHER)
    found = divergence_sum(student.bfloat16(), teacher.bfloat16(), torch.ones(1, 2, 2), 1.0)
    assert found.dtype == torch.float32 and found.item() == pytest.approx(sum(map(sum, EACH)), rel=0.01)


def test_features_by_hand():
    """Cosines 1, 0, -1 and 3/5; the last cell holds one pixel, the others four."""
    student = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[0.0, 0.0], [1.0, 4.0]]])[None]
    teacher = torch.tensor([[[5.0, 0.0], [-1.0, 7.0]], [[0.0, 2.0], [-1.0, 0.0]]])[None]
    pixels = torch.tensor([[[4.0, 4.0], [4.0, 1.0]]])
    assert feature_distance_sum(student, teacher, pixels).item() == close(0 + 4 + 8 + 0.4)


def test_features_are_compared_as_torch_does():
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(2, 8, 3, 5, generator=generator) for _ in range(2))
    student.requires_grad_()
    pixels = torch.rand(2, 3, 5, generator=generator)
    expected = ((1 - torch.nn.functional.cosine_similarity(student, teacher, dim=1)) * pixels).sum()
    found = feature_distance_sum(student, teacher, pixels)
    assert_close(found, expected)
    assert_close(*(torch.autograd.grad(value, student)[0] for value in (found, expected)))


def test_a_feature_of_zeros_has_a_bounded_gradient():
    student = torch.zeros(1, 2, 1, 1, requires_grad=True)
    value = feature_distance_sum(student, torch.ones(1, 2, 1, 1), torch.ones(1, 1, 1))
    value.backward()
    assert value.item() == close(1) and student.grad.abs().max() <= 1000


def test_a_stage_and_the_deeper_one_by_hand():
    """The deeper stage has one cell, (3, 4): every cell of the other is compared with it."""
    student = torch.tensor([[[3.0, 4.0], [-3.0, 0.0]], [[4.0, -3.0], [-4.0, 0.0]]])[None].requires_grad_()
    teacher = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).requires_grad_()
    value = deeper_distance_sum(student, teacher, torch.tensor([[[4.0, 4.0], [2.0, 0.0]]]))
    assert value.item() == close(4 * 0 + 4 * 1 + 2 * 2)  # cosines 1, 0, -1
    value.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_the_deeper_stage_is_resized_between_the_centres_of_its_cells():
    teacher = torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]])[None]
    student = torch.tensor([[[0.0, 1.0, 3.0, 4.0]], [[1.0, 1.0, 1.0, 1.0]]])[None]
    assert deeper_distance_sum(student, teacher, torch.ones(1, 1, 4)).item() == pytest.approx(0, abs=1e-5)


def test_attention_by_hand():
    """Shares (1/2, 1/2, 0) against (1/4, 1/2, 1/4), and (1, 0, 0) against a student for which that token is masked."""
    teacher = torch.tensor([[0.5, 1.0], [0.5, 0.0], [0.0, 0.0]]).view(1, 3, 1, 2).requires_grad_()
    student = torch.tensor([[0.25, 0.0], [0.5, 0.5], [0.25, 0.5]]).view(1, 3, 1, 2).requires_grad_()
    value = attention_divergence_sum(student, teacher, torch.tensor([[[4.0, 1.0]]]))
    expected = 4 / 2 * math.log(0.5001 / 0.2501) + math.log(1.0001 / 0.0001)  # 1e-4 is added to each share
    assert value.item() == close(expected)
    value.backward()
    assert teacher.grad is None
    assert student.grad.flatten().tolist() == close([-2 / 0.2501, -1e4, -2 / 0.5001, 0, 0, 0])


def test_a_masked_token_gets_no_gradient():
    """However much attention the teacher gives it; the softmax stops the gradient, also that of the others."""
    scores = torch.zeros(1, 3, 1, 1, requires_grad=True)
    hidden = torch.tensor([True, False, False]).view(1, 3, 1, 1)
    student = scores.masked_fill(hidden, -torch.inf).softmax(1)
    teacher = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    attention_divergence_sum(student, teacher, torch.ones(1, 1, 1)).backward()
    assert scores.grad.flatten().tolist() == pytest.approx([0, 0, 0], abs=1e-5)


def test_equal_attention_has_nothing_to_teach():
    shares = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert attention_divergence_sum(shares, shares.bfloat16(), torch.ones(2, 3, 4)).item() == pytest.approx(0, abs=1e-2)
    assert attention_divergence_sum(shares, shares, torch.ones(2, 3, 4)).item() == 0


@pytest.mark.parametrize(
    ("warmup", "rise", "expected"),
    [
        (0.2, 0.4, [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (0.0, 0.5, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]),
        (0.3, 0.0, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]),
        (0.0, 0.0, [1] * 10),
        (0.9, 1.0, [0] * 9 + [0.1]),
    ],
)
def test_the_ramp_begins_after_the_warm_up(warmup, rise, expected):
    assert [ramp(step, 10, warmup, rise) for step in range(10)] == close(expected)
