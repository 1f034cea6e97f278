"""The segmenter: picture in, a score for every class at every place out."""

from typing import NamedTuple

import torch
from torch import nn

from foodseg.models.decoder import FPNDecoder
from foodseg.models.pyramid import Pyramid


class SegmenterOutput(NamedTuple):
    """What a forward pass gives. h, w = picture size / stride.

    Attributes:
        logits: (B, K, h, w) float.
        stride: picture pixels per logit.
        ingredient_logits: (B, K) float, which ingredients are on the picture; None without an ingredient head.
        features: (B, C, h, w) float, what the classifier sees.
    """

    logits: torch.Tensor
    stride: int
    ingredient_logits: torch.Tensor | None
    features: torch.Tensor


class Segmenter(nn.Module):
    """Backbone, decoder, 1x1 classifier; the parts are built in `models/build.py`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, backbone: Pyramid, decoder: FPNDecoder, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.classifier = nn.Conv2d(decoder.out_channels, classes, 1)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]
        self.stride = backbone.strides[0]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def size_multiple(self) -> int:
        """Height and width of a picture should be multiples of this many pixels."""
        return self.backbone.strides[-1]

    def forward(
        self, image: torch.Tensor, text: torch.Tensor | None = None, ingredients: torch.Tensor | None = None
    ) -> SegmenterOutput:
        """Runs the model.

        Args:
            image: (B, 3, H, W) float in [0, 1]; padding holds the channel means.
            text: (K, D) float class embeddings; None for the image-only model.
            ingredients: (B, K) bool, the names that may be on the picture; None = all.
        """
        assert text is None and ingredients is None, "the image-only segmenter has no text fusion"
        features = self.decoder(self.backbone((image - self.mean) / self.std))
        return SegmenterOutput(self.classifier(features), self.stride, None, features)
