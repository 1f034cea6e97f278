"""The averaged weights, followed by hand."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from foodseg.errors import UserError
from foodseg.train.ema import Teacher, statistics_of_batch
from tests.support.compare import close


def set_to(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def test_warm_up_then_decay_by_hand():
    student = nn.Linear(1, 1)
    set_to(student, 1.0)
    teacher = Teacher(student, horizon=0.1, total_steps=12)  # decay 1 - 1 / 1.2 = 1/6
    assert teacher.decay == close(1 / 6)
    expected = 1.0
    for step, (value, decay) in enumerate([(2.0, 1 / 10), (3.0, 1 / 6), (5.0, 1 / 6)]):  # (1 + 1) / (10 + 1) > 1/6
        set_to(student, value)
        teacher.update(student, step)
        expected = decay * expected + (1 - decay) * value
        assert teacher.module.weight.item() == close(expected)
        assert teacher.module.bias.item() == close(expected)
    assert expected == close(1 / 6 * (1 / 6 * 1.9 + 5 / 6 * 3) + 5 / 6 * 5)


def test_a_long_horizon_is_held_back_by_the_warm_up():
    student = nn.Linear(1, 1)
    set_to(student, 0.0)
    teacher = Teacher(student, horizon=1.0, total_steps=1000)
    set_to(student, 1.0)
    for step, value in enumerate([0.9, 1 - 0.1 * 2 / 11, 1 - 0.1 * 2 / 11 * 3 / 12]):
        teacher.update(student, step)
        assert teacher.module.weight.item() == close(value)


@pytest.mark.parametrize(
    ("horizon", "steps", "decay"), [(0.1, 1, 0.0), (1.0, 1, 0.0), (1.0, 4, 0.75), (0.1, 1000, 0.99)]
)
def test_decay_from_the_horizon(horizon, steps, decay):
    assert Teacher(nn.Linear(1, 1), horizon, steps).decay == close(decay)


def test_batch_norm_statistics_are_averaged_and_counters_copied():
    student = nn.BatchNorm2d(1)
    teacher = Teacher(student, horizon=1.0, total_steps=100)
    student.running_mean.fill_(10.0)
    student.running_var.fill_(3.0)
    student.num_batches_tracked.fill_(7)
    teacher.update(student, 0)  # decay 1/10
    assert teacher.module.running_mean.item() == close(9.0)
    assert teacher.module.running_var.item() == close(0.1 * 1 + 0.9 * 3)
    assert teacher.module.num_batches_tracked.item() == 7
    assert teacher.module.num_batches_tracked.dtype == torch.int64


def test_no_gradients_and_always_in_evaluation_mode():
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    teacher = Teacher(student, 0.1, 10)
    student(torch.rand(2, 3, 4, 4)).sum().backward()
    teacher.update(student, 0)
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    assert all(parameter.grad is None for parameter in teacher.module.parameters())
    assert not any(module.training for module in teacher.module.modules())
    assert student.training and student[0].weight.requires_grad


def test_the_teacher_shares_no_memory_with_the_student():
    student = nn.Linear(2, 2)
    teacher = Teacher(student, 0.1, 10)
    before = teacher.module.weight.clone()
    set_to(student, 9.0)
    assert torch.equal(teacher.module.weight, before)


def test_what_is_frozen_is_the_students_own():
    student = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    student[0].requires_grad_(False)
    teacher = Teacher(student, 0.1, 10)
    assert teacher.module[0].weight is student[0].weight
    assert teacher.module[1].weight is not student[1].weight and teacher.module[2] is not student[2]
    before = teacher.module[1].weight.clone()
    set_to(student[1], 9.0)
    teacher.update(student, 0)
    assert not torch.equal(teacher.module[1].weight, before)
    own = {name for name in student.state_dict() if not name.startswith("0.")}
    assert teacher.state_dict().keys() == own and "2.running_mean" in own
    other = Teacher(student, 0.1, 10)
    other.load_state_dict(teacher.state_dict())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in teacher.state_dict().items())


def test_a_state_of_something_else_is_refused():
    teacher = Teacher(nn.Linear(2, 2), 0.1, 10)
    with pytest.raises(RuntimeError, match="extra"):
        teacher.load_state_dict({**teacher.state_dict(), "extra": torch.zeros(1)})
    with pytest.raises(UserError, match="the averaged weights of this checkpoint are incomplete: bias is missing"):
        teacher.load_state_dict({"weight": teacher.state_dict()["weight"]})


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(2), BatchNormAct2d(2, act_layer=nn.Identity)])
def test_the_statistics_of_the_batch_leave_the_layers_own_as_they_are(layer):
    layer = layer.eval()
    layer.running_mean.fill_(7.0)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.rand(3, 2, 4, 4)
    with statistics_of_batch(layer):
        found = layer(x)
    centred = x - x.mean((0, 2, 3), keepdim=True)
    assert torch.allclose(
        found, centred / (centred.square().mean((0, 2, 3), keepdim=True) + layer.eps).sqrt(), atol=1e-5
    )
    assert not torch.allclose(layer(x), found, atol=0.1) and not layer.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
