"""Depthwise convolutions under autocast on a CPU."""

import copy

import timm
import torch
from torch import nn
from torch.testing import assert_close

from foodseg.models.backbones.depthwise import compute_in_float32


def depthwise(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups > 1]


def test_under_autocast_it_is_the_rounded_result_in_float32() -> None:
    torch.manual_seed(0)
    plain, changed = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=8)
    changed.load_state_dict(plain.state_dict())
    compute_in_float32(changed)
    image = torch.randn(2, 8, 9, 9)
    assert torch.equal(changed(image), plain(image))
    with torch.autocast("cpu", torch.bfloat16):
        found = changed(image)
        half = changed(image.bfloat16())
    assert found.dtype == half.dtype == torch.bfloat16
    assert torch.equal(found, plain(image).bfloat16())
    assert torch.equal(half, plain(image.bfloat16().float()).bfloat16())
    found.float().square().sum().backward()
    plain(image).bfloat16().float().square().sum().backward()
    assert changed.weight.grad is not None and plain.weight.grad is not None
    assert_close(changed.weight.grad, plain.weight.grad)


def test_only_depthwise_convolutions_change_and_names_stay() -> None:
    plain = timm.create_model("test_efficientnet")
    changed = copy.deepcopy(plain)
    compute_in_float32(changed)
    assert changed.state_dict().keys() == plain.state_dict().keys() and depthwise(changed)
    kinds = [(type(a), type(b)) for a, b in zip(changed.modules(), plain.modules(), strict=True)]
    assert sum(a is not b for a, b in kinds) == len(depthwise(plain))
    assert all(issubclass(a, b) for a, b in kinds)


def test_a_copy_computes_with_its_own_weights() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4))
    compute_in_float32(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.zero_()
        other[0].bias.zero_()
        assert not other(torch.ones(1, 4, 2, 2)).any() and model(torch.ones(1, 4, 2, 2)).any()
