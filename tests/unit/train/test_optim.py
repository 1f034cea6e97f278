"""Parameter groups, and schedules at steps worked out by hand."""

import io
import warnings

import pytest
import torch
from torch import nn

from foodseg.config.optim import OptimConfig, StageTwoConfig
from foodseg.models.text.prompts import Prompts
from foodseg.train.optim import TwoStageSchedule, build_optimizer, build_schedule, stage_two_begins


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def rates(total_steps: int, **settings) -> list[float]:
    """The rate of the head at every update, while the steps are taken as the loop takes them."""
    config = OptimConfig(lr=1.0, backbone_lr_factor=1.0, **settings)
    optimizer = build_optimizer(config, nn.Linear(1, 1))
    schedule = build_schedule(config, optimizer, total_steps)
    seen = []
    for _ in range(total_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_groups():
    model = Model()
    config = OptimConfig(lr=1e-2, backbone_lr_factor=0.1, weight_decay=0.5, betas=(0.8, 0.9))
    optimizer = build_optimizer(config, model)
    expected = [
        ([model.backbone[0].weight], 1e-3, 0.5),
        ([model.backbone[0].bias, model.backbone[1].weight, model.backbone[1].bias], 1e-3, 0.0),
        ([model.head.weight], 1e-2, 0.5),
        ([model.head.bias], 1e-2, 0.0),
    ]
    found = {tuple(map(id, g["params"])): (g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups}
    assert len(optimizer.param_groups) == 4
    for parameters, rate, decay in expected:
        assert found[tuple(map(id, parameters))] == (pytest.approx(rate), decay, (0.8, 0.9))


def test_poly():
    # two steps of warm-up: 1/3, 2/3; then (1 - k/8) for k = 0..7
    assert rates(10, schedule="poly", warmup=0.2, poly_power=1.0) == pytest.approx(
        [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert rates(4, schedule="poly", warmup=0, poly_power=2.0) == pytest.approx([1, 9 / 16, 4 / 16, 1 / 16])


def test_cosine():
    half = 0.5**0.5
    expected = [1, (1 + half) / 2, 0.5, (1 - half) / 2]
    assert rates(4, schedule="cosine", warmup=0) == pytest.approx(expected)
    assert rates(5, schedule="cosine", warmup=0.2) == pytest.approx([0.5, *expected])


def test_one_cycle():
    # torch: from 1/25 up in the first half, down to 1/250,000 in the second, on cosines
    seen = rates(9, schedule="one_cycle", warmup=5 / 9)
    assert seen[0] == pytest.approx(1 / 25)
    assert seen[2] == pytest.approx((1 + 1 / 25) / 2)
    assert seen[4] == pytest.approx(1)
    assert seen[6] == pytest.approx((1 + 4e-6) / 2)
    assert seen[8] == pytest.approx(1 / 250_000)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "cosine"])
def test_short_runs(schedule, warmup, steps):
    seen = rates(steps, schedule=schedule, warmup=warmup)
    assert all(0 < rate <= 1 for rate in seen)


def test_one_cycle_of_two_steps_peaks_in_the_second():
    assert rates(2, schedule="one_cycle") == pytest.approx([1 / 25, 1])


@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "cosine"])
def test_state_round_trip(schedule):
    """States travel through torch's restricted loader, as in a checkpoint."""
    config = OptimConfig(lr=1.0, schedule=schedule)

    def build():
        optimizer = build_optimizer(config, model)
        return optimizer, build_schedule(config, optimizer, 10)

    def go(optimizer, steps):
        for _ in range(steps):
            model(torch.ones(1, 2)).sum().backward()
            optimizer[0].step()
            optimizer[1].step()
        return [group["lr"] for group in optimizer[0].param_groups]

    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    first = build()
    go(first, 4)
    sink = io.BytesIO()
    torch.save([part.state_dict() for part in first], sink)
    sink.seek(0)
    second = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part, state in zip(second, torch.load(sink, weights_only=True), strict=True):
            part.load_state_dict(state)
    assert [group["lr"] for group in second[0].param_groups] == [group["lr"] for group in first[0].param_groups]
    assert go(first, 3) == go(second, 3)


class Prompted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        self.prompts = Prompts(2, 3, per_class=False)
        self.prompts.context = nn.Parameter(torch.zeros(2, 3))


def two_stages(schedule: str) -> tuple[Prompted, torch.optim.AdamW, TwoStageSchedule]:
    config = OptimConfig(lr=1.0, schedule=schedule, warmup=0.25, stage_two={"begins": 0.6, "context_lr": 0.5})
    model = Prompted()
    optimizer = build_optimizer(config, model)
    scheduled = build_schedule(config, optimizer, 20)
    assert isinstance(scheduled, TwoStageSchedule)
    return model, optimizer, scheduled


def test_two_stages_by_hand():
    # 12 updates: 3 of warm-up, then (1 - k/9); 8 updates: 2 of warm-up, then (1 - k/6), of a tenth of the rate
    _, optimizer, schedule = two_stages("poly")
    found = []
    for _ in range(20):
        context, *rest = (group["lr"] for group in optimizer.param_groups)
        assert rest[0] == rest[1]
        found.append((context, rest[0]))
        optimizer.step()
        schedule.step()
    one = [1 / 4, 2 / 4, 3 / 4, *((1 - k / 9) ** 0.9 for k in range(9))]
    two = [1 / 3, 2 / 3, *((1 - k / 6) ** 0.9 for k in range(6))]
    assert [context for context, _ in found] == pytest.approx([0] * 12 + [0.5 * rate for rate in two])
    assert [rest for _, rest in found] == pytest.approx(one + [0.1 * rate for rate in two])


def test_adam_begins_with_the_context_in_stage_two():
    """With bias correction its first step has the length of the rate, whatever came before."""
    model, optimizer, schedule = two_stages("cosine")
    for step in range(13):
        before = model.prompts.context.detach().clone()
        model.prompts.context.grad = torch.full((2, 3), 0.0 if step < 12 else 1e-3)
        model.head.weight.grad = torch.ones(1, 1)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        moved = (before - model.prompts.context).detach()
        assert moved.tolist() == [pytest.approx([rate] * 3, rel=1e-3)] * 2
    assert rate == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "cosine"])
@pytest.mark.parametrize("stop", [1, 11, 12, 13, 19])
def test_two_stages_resume_anywhere(schedule, stop):
    def taken(steps, optimizer, scheduled):
        seen = []
        for _ in range(steps):
            seen.append([(group["lr"], group["betas"]) for group in optimizer.param_groups])
            optimizer.step()
            scheduled.step()
        return seen

    _, optimizer, scheduled = two_stages(schedule)
    whole = taken(20, optimizer, scheduled)
    _, optimizer, scheduled = two_stages(schedule)
    taken(stop, optimizer, scheduled)
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduled.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    _, optimizer, scheduled = two_stages(schedule)
    optimizer.load_state_dict(states[0])
    scheduled.load_state_dict(states[1])
    assert taken(20 - stop, optimizer, scheduled) == whole[stop:]


def test_each_stage_has_an_update():
    assert [stage_two_begins(StageTwoConfig(begins=share), 10) for share in (0.01, 0.5, 0.99)] == [1, 5, 9]
