"""The pixel-text head by hand: cosines, prototypes of background, folding."""

import math

import pytest
import torch

from foodseg.models.pixel_text import PROTOTYPES, FoldedHead, PixelTextHead
from tests.support.compare import close


def by_hand(centre: bool = False) -> PixelTextHead:
    """Two channels are the width of the text; foods at (1, 0) and (0, 1), prototypes at (-1, 0), others opposite."""
    head = PixelTextHead(2, torch.tensor([[9.0, 9], [3, 0], [0, 2]]), centre=centre)
    with torch.no_grad():
        head.project.weight.copy_(2 * torch.eye(2)[:, :, None, None])
        head.background.copy_(torch.tensor([[-5.0, 0], [0, -1], [-1, -1], [0, -3]]))
    return head


def test_logits_are_cosines_at_temperature_007_and_the_nearest_prototype_is_background():
    head = by_hand()
    cells = torch.tensor([[1.0, 0], [3, 4], [-2, 0]]).T.reshape(1, 2, 1, 3)
    found = (head(cells, head.class_embeddings()) * 0.07)[0, :, 0].T.tolist()
    half = math.sqrt(0.5)
    # prototypes: (-1, 0), (0, -1), (-half, -half), (0, -1)
    assert found[0] == close([0.0, 1.0, 0.0])
    assert found[1] == close([max(-0.6, -0.8, -1.4 * half), 0.6, 0.8])
    assert found[2] == close([1.0, -1.0, 0.0])


def test_centred_embeddings_are_those_without_what_all_names_share():
    # mean of (3, 0) and (0, 2) is (1.5, 1): left are (1.5, -1) and its opposite
    rows = by_hand(centre=True).class_embeddings()[PROTOTYPES:]
    length = math.hypot(1.5, 1)
    assert rows.flatten().tolist() == close([1.5 / length, -1 / length, -1.5 / length, 1 / length])
    alone = PixelTextHead(2, torch.tensor([[0.0, 0], [3, 4]]), centre=True)
    assert alone.class_embeddings()[PROTOTYPES:].flatten().tolist() == close([0.6, 0.8])


@pytest.mark.parametrize("width", [5, 16, 384], ids=["narrower than the features", "equal", "wider"])
def test_folded_logits_are_the_unfolded_ones(width):
    generator = torch.Generator().manual_seed(0)
    head = PixelTextHead(16, torch.randn(12, width, generator=generator), centre=True)
    features = torch.randn(2, 16, 7, 5, generator=generator).relu()
    with torch.no_grad():
        expected, folded = head(features, head.class_embeddings()), FoldedHead(head)
        found = folded(features)
    assert found.shape == (2, 12, 7, 5) and expected.abs().max() > 2
    assert (found - expected).abs().max() < 1e-5
    assert {name: tuple(p.shape) for name, p in folded.named_parameters()} == {
        "classify.weight": (PROTOTYPES + 11, 16, 1, 1),
        "length.weight": (min(16, width), 16, 1, 1),
    }


def test_a_cell_without_features_has_no_scores():
    head = by_hand()
    cell = torch.zeros(1, 2, 1, 1)
    assert head(cell, head.class_embeddings()).flatten().tolist() == [0, 0, 0]
    assert FoldedHead(head)(cell).flatten().tolist() == [0, 0, 0]


def test_it_computes_in_float32_under_autocast():
    head, features = by_hand(), torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    for part in (lambda: head(features, head.class_embeddings()), lambda: FoldedHead(head)(features)):
        with torch.autocast("cpu", torch.bfloat16):
            found = part()
        assert found.dtype == torch.float32 and torch.equal(found, part())
