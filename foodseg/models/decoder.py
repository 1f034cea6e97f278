"""The FPN decoder for semantic segmentation (Kirillov et al., Panoptic Feature Pyramid Networks, 2019).

Lateral 1x1 convolutions and a top-down path make a pyramid of equal width; each level is upsampled to the finest one by
blocks of 3x3 convolution, GroupNorm, ReLU; the levels are added.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate


class FPNDecoder(nn.Module):
    """Fuses levels C_1..C_n (finest first) to one map at the finest stride."""

    def __init__(self, in_channels: Sequence[int], pyramid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, pyramid_channels, 1) for channels in in_channels)
        self.upsample = nn.ModuleList(
            _upsampling_path(pyramid_channels, out_channels, level) for level in range(len(in_channels))
        )
        self.out_channels = out_channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, levels: Sequence[torch.Tensor], extra: torch.Tensor | None = None, at: int | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Fuses levels, finest first, each (B, C_i, h_i, w_i).

        `extra` (B, pyramid_channels, h_at, w_at) is added to the 1x1 convolution of level `at`.

        Returns:
            (B, out_channels, h_1, w_1), and the stages of the top-down path, each (B, pyramid_channels, h_i, w_i).
        """
        laterals = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        if extra is not None:
            assert at is not None
            laterals[at] = laterals[at] + extra
        pyramid = [laterals[-1]]
        for level in laterals[-2::-1]:
            # sizes that are not multiples of the coarsest stride still meet: upsample to the level's own size
            pyramid.insert(0, level + interpolate(pyramid[0], size=level.shape[-2:], mode="nearest"))
        fused = self.upsample[0](pyramid[0])
        for path, level in zip(self.upsample[1:], pyramid[1:], strict=True):
            fused = fused + _to_size(path(level), fused)
        return fused, pyramid


def _upsampling_path(in_channels: int, out_channels: int, doublings: int) -> nn.Sequential:
    layers: list[nn.Module] = [_block(in_channels, out_channels)]
    if doublings:
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    for _ in range(doublings - 1):
        layers += [
            _block(out_channels, out_channels),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        ]
    return nn.Sequential(*layers)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    groups = math.gcd(32, out_channels)  # 32 as in the paper, fewer where the width does not divide
    if groups == out_channels:
        groups //= 2  # one channel alone has no variance where a small image is one pixel here
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.GroupNorm(groups, out_channels), nn.ReLU()
    )


def _to_size(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
