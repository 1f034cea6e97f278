"""Cosine classifiers by hand: directions, what a class name gives, and what a training makes of it."""

import math

import pytest
import torch

from foodseg.models.classifier import HALFWAY, CosineClassifier
from tests.support.compare import assert_close, close


def test_logits_are_scaled_cosines():
    part = CosineClassifier(2, 2)
    with torch.no_grad():
        part.directions.copy_(torch.tensor([[2.0, 0.0], [3.0, 3.0]]))
    found = part(torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)).flatten().tolist()
    assert found == close([1 / 0.07, math.sqrt(0.5) / 0.07])


def test_the_fewer_images_the_more_the_name_counts():
    text = torch.eye(3)
    part = CosineClassifier(3, 3, text, [50, 0, HALFWAY])
    with torch.no_grad():
        part.directions.copy_(torch.tensor([[0.0, 0, 5], [0, 0, 5], [0, 0, 5]]))
        part.project.weight.copy_(2 * torch.eye(3))
    weights = part.weights()
    assert weights[0].tolist() == close([0, 0, 1]), "background has no name, however many images"
    assert weights[1].tolist() == close([0, 1, 0]), "a class without images has the direction of its name"
    assert weights[2].tolist() == close([0, 0, 1])
    assert part.share.tolist() == close([1, 0, 0.5])
    two = CosineClassifier(3, 3, torch.eye(3).roll(1, 0), [0, 0, HALFWAY])
    with torch.no_grad():
        two.directions.copy_(torch.tensor([[0.0, 0, 5], [0, 0, 5], [0, 0, 5]]))
        two.project.weight.copy_(torch.eye(3))
    assert two.weights()[2].tolist() == close([0, math.sqrt(0.5), math.sqrt(0.5)])


def test_without_names_there_are_only_directions():
    part = CosineClassifier(4, 3)
    assert set(part.state_dict()) == {"directions", "log_scale"}
    assert_close(part.weights().norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("named", [True, False])
def test_every_parameter_gets_a_finite_gradient(named):
    text = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) if named else None
    part = CosineClassifier(4, 3, text, [3, 2, 1])
    part(torch.zeros(1, 4, 2, 2)).sum().backward()  # a cell without a feature has no direction
    part(torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    for name, parameter in part.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_a_checkpoint_has_the_counts():
    text = torch.eye(3)
    part = CosineClassifier(3, 3, text, [1, 2, 3])
    other = CosineClassifier(3, 3, text)
    other.load_state_dict(part.state_dict())
    assert torch.equal(other.weights(), part.weights())


def test_it_computes_in_float32_under_autocast():
    part = CosineClassifier(4, 3)
    features = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = part(features)
    assert found.dtype == torch.float32 and torch.equal(found, part(features))
