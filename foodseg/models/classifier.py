"""Classifiers of grid cells by their cosine with a direction of each class, which the class name may help to find.

Shapes: B images, K classes, C channels, D width of the class embeddings, h x w grid cells.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import normalize

from foodseg.classes import BACKGROUND

TEMPERATURE = 0.07  # CLIP's
HALFWAY = 10  # training images of a class at which its name and its own direction count alike


class CosineClassifier(nn.Module):
    """Learned scale x cosine of each grid cell with the direction of each class.

    With class embeddings the direction is a mixture: (1 - g) P t + g v, each of length 1, where t is the embedding, P a
    learned projection, v learned for the class alone, and g = n / (n + 10) with n training images of the class. A class
    that is never seen has the direction that its name gives it.
    """

    share: torch.Tensor
    text: torch.Tensor

    def __init__(
        self, channels: int, classes: int, text: torch.Tensor | None = None, class_images: Sequence[int] | None = None
    ) -> None:
        """Takes (K, D) class embeddings, None = the directions are learned alone; and (K,) images of each class.

        Without `class_images` a checkpoint follows, which has them.
        """
        super().__init__()
        self.out_channels = classes
        self.directions = nn.Parameter(torch.randn(classes, channels))
        self.log_scale = nn.Parameter(torch.tensor(1 / TEMPERATURE).log())
        self.project = None
        if text is not None:
            self.project = nn.Linear(text.shape[1], channels, bias=False)
            self.register_buffer("text", text.clone())
            images = torch.zeros(classes) if class_images is None else torch.tensor(class_images, dtype=torch.float32)
            share = images / (images + HALFWAY)
            share[BACKGROUND] = 1  # its name says nothing of what it looks like
            self.register_buffer("share", share)

    def weights(self) -> torch.Tensor:
        """Returns (K, C) directions of length 1."""
        own = normalize(self.directions, dim=1)
        if self.project is None:
            return own
        named = normalize(self.project(self.text), dim=1)
        return normalize(torch.lerp(named, own, self.share[:, None]), dim=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) -> (B, K, h, w) float32 logits."""
        with torch.autocast(features.device.type, enabled=False):  # a large scale would enlarge rounding errors
            cosines = torch.einsum("bchw,kc->bkhw", normalize(features.float(), dim=1), self.weights())
            return self.log_scale.exp() * cosines
