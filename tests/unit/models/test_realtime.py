"""The real-time network as a whole: sizes, what only training has, folding, what two networks have in common."""

import pytest
import torch

from foodseg.config.model import ModelConfig
from foodseg.models.build import build_network
from foodseg.models.pixel_text import FoldedHead
from foodseg.models.realtime import RealtimeNetwork

TEXT = torch.randn(7, 24, generator=torch.Generator().manual_seed(3))


def network(size: str = "M", *, text: bool = True, **settings: object) -> RealtimeNetwork:
    named = {"text": {"kind": "table", "table": "t"}} if text else {}
    tree = {"kind": "realtime", "backbone": "test_efficientnet", "weights": "none", "realtime": {"size": size}}
    torch.manual_seed(0)
    built = build_network(ModelConfig.model_validate({**tree, **named, **settings}), 7, text=TEXT if text else None)
    assert isinstance(built, RealtimeNetwork)
    return built


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(("size", "multiple", "width"), [("S", 16, 64), ("M", 32, 128)])
@pytest.mark.parametrize(("height", "side"), [(64, 64), (64, 96), (50, 70)])
def test_shapes(size, multiple, width, height, side, text):
    model = network(size, text=text)
    assert (model.size_multiple, model.stride) == (multiple, 8)
    found = model.train()(torch.rand(2, 3, height, side))
    grid = (-(-height // 8), -(-side // 8))
    assert found.logits.shape == (2, 7, *grid) and found.features.shape == (2, width, *grid)
    assert (found.linear_logits is None) == (not text)
    assert model.eval()(torch.rand(1, 3, height, side)).linear_logits is None


def test_s_is_the_smaller_one():
    large, small = (sum(p.numel() for p in network(size).parameters()) for size in "MS")
    assert small < large / 2


@pytest.mark.parametrize("size", "SM")
def test_folded_logits_are_the_unfolded_ones(size):
    model = network(size).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(image).logits
        model.fold()
        found = model(image).logits
    assert isinstance(model.head, FoldedHead) and model.classifier is None
    assert (found - expected).abs().max() < 1e-5
    model.fold()
    with torch.no_grad():
        assert torch.equal(model(image).logits, found)
    with pytest.raises(AssertionError, match="folded"):
        _ = model.trained_head


def test_all_but_the_head_starts_alike_with_text_and_without():
    with_text, without = network(text=True).state_dict(), network(text=False).state_dict()
    assert without.keys() < with_text.keys() and {name for name in with_text if name not in without} == {
        "head.project.weight", "head.background", "head.text",
    }  # fmt: skip
    assert all(torch.equal(with_text[name], tensor) for name, tensor in without.items())


def test_what_a_teacher_is_compared_with_has_no_dropout():
    model = network(dropout=0.5).train()
    model.gives_undropped = True
    found = model(torch.rand(2, 3, 64, 64))
    assert found.undropped is not None
    logits, features = found.undropped
    assert (features == 0).sum() < (found.features == 0).sum() and not torch.equal(logits, found.logits)


def test_every_parameter_gets_a_gradient():
    model = network().train()
    found = model(torch.rand(2, 3, 64, 64))
    (found.logits.square().sum() + found.linear_logits.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
