"""A convolutional pyramid and a plain ViT together: fine strides from the one, meaning from the other.

    backbone = Hybrid(Pyramid("tf_efficientnet_lite0", (4, 8, 16, 32)), encoder, mean, std, vit_mean, vit_std)

A ViT alone loses regions that are about as large as its patches. Here its tokens are concatenated to the levels at
strides 16 and 32 (averaged over 2 x 2 there), and the finer levels remain convolutional.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from foodseg.models.backbones.timm_pyramid import Pyramid
from foodseg.models.backbones.vit import STRIDE, TokenEncoder


class Hybrid(nn.Module):
    """A `Pyramid` and a `TokenEncoder`, with the interface of `Pyramid`.

    Attributes:
        channels, strides, size_multiple: as those of `Pyramid`.
        pyramid, encoder: both parts.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        pyramid: Pyramid,
        encoder: TokenEncoder,
        mean: Sequence[float],
        std: Sequence[float],
        encoder_mean: Sequence[float],
        encoder_std: Sequence[float],
    ) -> None:
        """Takes both parts, and the normalisation of the images that `forward` gets and of those that the ViT wants."""
        super().__init__()
        self.pyramid, self.encoder = pyramid, encoder
        self.strides, self.size_multiple = pyramid.strides, pyramid.size_multiple
        self.channels = [
            channels + (encoder.channels if stride >= STRIDE else 0)
            for stride, channels in zip(pyramid.strides, pyramid.channels, strict=True)
        ]
        means, deviations = torch.tensor([mean, encoder_mean]).double(), torch.tensor([std, encoder_std]).double()
        self.register_buffer("scale", (deviations[0] / deviations[1]).float().view(1, 3, 1, 1), persistent=False)
        shift = (means[0] - means[1]) / deviations[1]
        self.register_buffer("shift", shift.float().view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) normalised for the pyramid -> a list of (B, C_i, H / stride_i, W / stride_i)."""
        levels, tokens = list(self.pyramid(image)), self.tokens(image)
        for index, stride in enumerate(self.strides):
            if stride >= STRIDE:
                factor = stride // STRIDE
                pooled = tokens if factor == 1 else avg_pool2d(tokens, factor, ceil_mode=True)
                levels[index] = torch.cat([levels[index], pooled.to(levels[index].dtype)], 1)
        return levels

    def tokens(self, image: torch.Tensor) -> torch.Tensor:
        """Returns the ViT's map of tokens at stride 16 of an image that is normalised for the pyramid."""
        tokens: torch.Tensor = self.encoder(torch.addcmul(self.shift, image, self.scale))
        return tokens

    def rate_factors(self) -> dict[str, float]:
        """As `TokenEncoder.rate_factors`; the pyramid has the backbone's learning rate."""
        factors = {f"pyramid.{name}": 1.0 for name, _ in self.pyramid.named_parameters()}
        return factors | {f"encoder.{name}": factor for name, factor in self.encoder.rate_factors().items()}

    def no_weight_decay(self) -> set[str]:
        """As `TokenEncoder.no_weight_decay`."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}
