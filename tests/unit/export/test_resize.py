"""Antialiased resizing by matrices, against torch's."""

import pytest
import torch
from torch.nn.functional import interpolate

from foodseg.export.resize import MatrixResize, resize


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(12, 53), (37, 20), (80, 90), (1, 2)])
def test_resize_is_torchs(size: tuple[int, int], mode: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 37, 40)
    expected = interpolate(x, size=size, mode=mode, antialias=True)
    torch.testing.assert_close(resize(x, size, mode), expected, rtol=1e-4, atol=2e-6)
    with MatrixResize():
        torch.testing.assert_close(interpolate(x, size=size, mode=mode, antialias=True), resize(x, size, mode))
        assert torch.equal(interpolate(x, size=size), x if size == (37, 40) else interpolate(x, size=size))
