"""The simple feature pyramid: sizes, and values that follow from the one map."""

import pytest
import torch

from foodseg.models.backbones.simple_pyramid import SimpleFeaturePyramid


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 16), (32,)])
def test_sizes(strides: tuple[int, ...]) -> None:
    pyramid = SimpleFeaturePyramid(24, 8, strides)
    levels = pyramid(torch.rand(2, 24, 6, 5))
    sizes = {4: (24, 20), 8: (12, 10), 16: (6, 5), 32: (3, 3)}
    assert [level.shape for level in levels] == [(2, 8, *sizes[stride]) for stride in strides]


def test_every_level_is_normalised_over_its_channels() -> None:
    for level in SimpleFeaturePyramid(24, 8, (4, 8, 16, 32))(torch.rand(2, 24, 6, 6)):
        assert level.mean(1).abs().max() < 1e-5
        assert (level.var(1, correction=0) - 1).abs().max() < 0.01


def test_a_cell_of_a_fine_level_depends_on_near_tokens_alone() -> None:
    """Deconvolutions do not overlap, so only the 3x3 convolution looks beyond a token's own pixels."""
    pyramid = SimpleFeaturePyramid(16, 8, (4, 8, 16, 32))
    tokens = torch.rand(1, 16, 8, 8)
    changed = tokens.clone()
    changed[:, :, 4, 4] += 1
    for stride, one, other in zip((4, 8, 16, 32), pyramid(tokens), pyramid(changed), strict=True):
        rows = (one != other).any(1)[0].any(1).nonzero().flatten()
        assert int(rows.min()) == max(0, 64 // stride - 1)
        assert int(rows.max()) == min(80 // stride if stride < 32 else 3, 128 // stride - 1)
