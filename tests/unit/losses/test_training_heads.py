"""The terms of heads that only a training has, worked out by hand."""

import math

import pytest
import torch

from foodseg.config.loss import LossConfig
from foodseg.losses.term import Outputs, Targets
from foodseg.losses.training_heads import (
    STAGE_TEMPERATURE,
    divergence_sum,
    present_classes_of,
    training_head_losses,
)
from foodseg.models.segmenter import SegmenterOutput
from tests.support.compare import close

IGNORE = 255
ALL = LossConfig(stage_labels=0.7, stage_distill=0.3, privileged=0.5, privileged_distill=0.5)


def logs(*shares: float) -> torch.Tensor:
    """(1, K, 1, 1) logits of these probabilities."""
    return torch.tensor(shares).log().view(1, -1, 1, 1)


def targets_of(mask: torch.Tensor, present: list[bool], known: bool = True) -> Targets:
    extent = torch.tensor([[0, 0, *mask.shape[-2:]]])
    return Targets(mask, IGNORE, extent, None, torch.tensor([present]), torch.tensor([known]), None)


def output_of(logits: torch.Tensor, stages=(), privileged: torch.Tensor | None = None) -> Outputs:
    features = logits.new_zeros(1, 1, 1, 1)
    output = SegmenterOutput(logits, 4, None, features, None, (), (), stages, privileged, (logits, features))
    return Outputs(output)


def terms(strides=(4, 8, 16)) -> dict:
    return {term.name: term for term in training_head_losses(ALL, strides=strides, total_steps=100)}


def test_stages_learn_the_mask_and_the_finest_logits():
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    mask[0, 0, 0] = IGNORE
    finest = torch.zeros(1, 2, 4, 4)
    finest[:, 0, :, :2] = 6.0  # pooled to one cell: 3 and 0
    stages = [logs(1 / 4, 3 / 4), logs(1 / 2, 1 / 2)]
    targets, outputs = targets_of(mask, [False, False]), output_of(finest, stages)
    found = terms()
    assert found["stage_labels"].count(targets).item() == 2 * 255
    assert found["stage_labels"].sum(targets, outputs).item() == close(255 * (math.log(4) + math.log(2)))
    assert found["stage_distill"].count(targets).item() == 2 * 256
    teacher = torch.tensor([3.0, 0.0]) / STAGE_TEMPERATURE
    expected = 0.0
    # the first is a cell of 8 pixels, so that its one value stands for a quarter of the crop
    for stage, pixels in zip(stages, (64, 256), strict=True):
        own = (stage.flatten() / STAGE_TEMPERATURE).log_softmax(0)
        share = teacher.softmax(0)
        expected += 9 * pixels * float((share * (share.log() - own)).sum())
    assert found["stage_distill"].sum(targets, outputs).item() == close(expected)


def test_stages_teach_nothing_back():
    finest = torch.randn(1, 3, 4, 4, requires_grad=True)
    stage = torch.randn(1, 3, 2, 2, requires_grad=True)
    targets = targets_of(torch.zeros(1, 16, 16, dtype=torch.int64), [False] * 3)
    terms((4, 8))["stage_distill"].sum(targets, output_of(finest, [stage])).backward()
    assert finest.grad is None and stage.grad.abs().sum() > 0


def test_the_privileged_teach_the_difference_between_the_classes_on_the_image():
    """Classes 0 and 2 are on the image: renormalised, the student has 1/2 and 1/2, the teacher 1/4 and 3/4."""
    mask = torch.full((1, 4, 4), 2)
    targets = targets_of(mask, [False, False, True, False])
    student, teacher = logs(0.1, 0.7, 0.1, 0.1), logs(0.2, 0.1, 0.6, 0.1)
    student.requires_grad_()
    teacher.requires_grad_()
    term = terms((4,))["privileged_distill"]
    found = term.sum(targets, output_of(student, privileged=teacher))
    assert found.item() == close(16 * (0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)))
    assert term.count(targets).item() == 16
    found.backward()
    assert teacher.grad is None
    assert student.grad.flatten().tolist() == close([16 * (0.5 - 0.25), 0, 16 * (0.5 - 0.75), 0])


def test_the_privileged_teach_only_where_they_are_right():
    teacher = logs(0.2, 0.1, 0.6, 0.1)
    for label in (0, IGNORE):
        targets = targets_of(torch.full((1, 4, 4), label), [False, False, True, False])
        found = terms((4,))["privileged_distill"].sum(targets, output_of(logs(0.1, 0.7, 0.1, 0.1), privileged=teacher))
        assert found.item() == 0
    targets = targets_of(torch.full((1, 4, 4), 2), [False, False, True, False])
    learned = terms((4,))["privileged"]
    assert learned.sum(targets, output_of(teacher, privileged=teacher)).item() == close(16 * -math.log(0.6))
    assert learned.count(targets).item() == 16


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (20, 0.0), (35, 0.25), (50, 0.5), (99, 0.5)])
def test_a_teacher_that_learns_too_comes_in_between_20_and_50_percent(step, weight):
    assert terms()["privileged_distill"].weight(step) == close(weight)


def test_classes_of_an_image_without_a_mask_are_all():
    mask = torch.zeros(1, 4, 4, dtype=torch.int64)
    assert present_classes_of(targets_of(mask, [False, True, False])).tolist() == [[True, True, False]]
    assert present_classes_of(targets_of(mask, [False, True, False], known=False)).tolist() == [[True] * 3]


def test_a_class_that_is_left_out_of_both_has_no_part():
    left_out = torch.tensor([0.0, -math.inf, 1.0]).view(1, 3, 1, 1)
    other = torch.tensor([2.0, -math.inf, 0.0]).view(1, 3, 1, 1)
    own = left_out.clone().requires_grad_()
    found = divergence_sum(own, other, torch.ones(1, 1, 1), 1.0)
    two = divergence_sum(left_out[:, ::2], other[:, ::2], torch.ones(1, 1, 1), 1.0)
    assert found.item() == close(two.item())
    found.backward()
    assert torch.isfinite(own.grad).all() and own.grad[0, 1] == 0
