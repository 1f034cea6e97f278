"""A light decoder of two branches: details of a fine level, and what is around them from coarser levels.

After BiSeNetV2 (Yu et al., 2021), whose branches are here the levels of one backbone: the coarse branch goes down to
the fine one level by level, weighted by the whole image (LRASPP, Howard et al., 2019), and gates its details.

Shapes: B images, C channels, h x w grid cells of a level.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from foodseg.models.backbones.depthwise import compute_in_float32


class TwoBranchDecoder(nn.Module):
    """Fuses levels C_1..C_n (finest first, at least two) to one map at the finest stride, all of one width."""

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_pointwise(channels, width) for channels in in_channels)
        self.whole = nn.Conv2d(width, width, 1)
        self.merge = nn.ModuleList(_separable(width) for _ in in_channels[1:-1])
        self.detail = _separable(width)
        self.gate = nn.Conv2d(width, width, 1)
        self.fuse = _separable(width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        compute_in_float32(self)

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Levels, finest first, each (B, C_i, h_i, w_i) -> (B, width, h_1, w_1)."""
        detail, *context = (lateral(level) for lateral, level in zip(self.lateral, levels, strict=True))
        coarse = context[-1] * self.whole(context[-1].mean((2, 3), keepdim=True)).sigmoid()
        for merge, level in zip(self.merge, context[-2::-1], strict=True):
            coarse = merge(level + _to_size(coarse, level))
        coarse = _to_size(coarse, detail)
        return self.fuse(self.detail(detail) * self.gate(coarse).sigmoid() + coarse)


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU())


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), *_pointwise(width, width))


def _to_size(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
