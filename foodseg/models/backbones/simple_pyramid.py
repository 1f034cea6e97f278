"""The simple feature pyramid: levels at several strides from the one map of a plain ViT (Li et al., ViTDet, 2022).

    pyramid = SimpleFeaturePyramid(384, 256, (4, 8, 16, 32))
    levels = pyramid(torch.rand(1, 384, 16, 16))    # of 64 x 64, 32 x 32, 16 x 16 and 8 x 8

Every level is made of the same map: by two deconvolutions, one, none, or max pooling, and then a 1x1 and a 3x3
convolution. Each convolution is followed by a LayerNorm over the channels.
"""

import torch
from timm.layers import LayerNorm2d
from torch import nn


class SimpleFeaturePyramid(nn.Module):
    """Makes levels of `width` channels at some of `STRIDES`, of a map at stride 16."""

    STRIDES = (4, 8, 16, 32)

    def __init__(self, channels: int, width: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Sequential(*_scaled(channels, stride, width)) for stride in strides)

    def forward(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, h, w) at stride 16 -> a list of (B, width, 16 h / stride_i, 16 w / stride_i), rounded up."""
        return [level(tokens) for level in self.levels]


def _scaled(channels: int, stride: int, width: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    if stride == 32:
        layers = [nn.MaxPool2d(2, 2, ceil_mode=True)]
    elif stride < 16:
        layers = [nn.ConvTranspose2d(channels, channels // 2, 2, stride=2)]
        if stride == 4:
            layers += [LayerNorm2d(channels // 2), nn.GELU(), nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2)]
        channels = channels * stride // 16
    return [
        *layers,
        nn.Conv2d(channels, width, 1, bias=False),
        LayerNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        LayerNorm2d(width),
    ]
