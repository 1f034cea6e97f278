"""A segmenter for any names, made of CLIP: each patch gets the name that fits it best, or background.

    names = parse_names("kimchi, white rice|steamed rice")
    model = DenseSegmenter(clip, names, DenseConfig())
    logits = model(image).logits        # (B, 1 + n, h, w): background, kimchi, white rice

The predictor takes it as it takes a trained network, so that windows, mirroring and several scales are the same code.

Shape letters: B images; H, W of an image; h, w grid of patches; D width of an embedding; n names.
"""

import math
from typing import Any

import torch
from torch import nn

from foodseg.config.zero_shot import DenseConfig
from foodseg.models.clip.clip import ClipModel
from foodseg.models.clip.dense import DenseImageEncoder, ExternalEncoder
from foodseg.models.clip.names import Names
from foodseg.models.clip.patch_tower import open_tower
from foodseg.models.segmenter import SegmenterOutput

NEVER = -1e4  # finite, so that logits can still be blended; softmax gives such a class probability 0
AT_ONCE = 1024  # words that patches are compared with in one product


class DenseSegmenter(nn.Module):
    """CLIP and some names. Id 0 is background, id i the i-th name.

    Attributes:
        stride, size_multiple: pixels of a patch. classes: 1 + n.
    """

    fusion = None
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, clip: ClipModel, names: Names, config: DenseConfig, external: ExternalEncoder | None = None
    ) -> None:
        """Embeds the names.

        Args:
            external: encoder for attention `proxy`.

        Raises:
            UserError: as `open_tower` and `DenseImageEncoder`.
        """
        super().__init__()
        tower = open_tower(clip.visual)
        self._encoder = DenseImageEncoder(tower, config.attention, external)
        self._config = config
        self.stride = self.size_multiple = tower.patch
        self.classes = 1 + len(names.labels)
        visual: Any = clip.visual
        self.register_buffer("mean", torch.tensor(visual.image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(visual.image_std).view(1, 3, 1, 1), persistent=False)
        known = {word.lower() for own in names.words for word in own}
        background = [word for word in config.background if word.lower() not in known]
        words = [*background, *(word for own in names.words for word in own)]
        owners = [0] * len(background) + [index for index, own in enumerate(names.words, start=1) for _ in own]
        self._text = clip.text_embeddings(words)
        self._owners = torch.tensor(owners, device=clip.device)

    def forward(self, image: torch.Tensor) -> SegmenterOutput:
        """(B, 3, H, W) float in [0, 1], sides multiples of the patch -> logits (B, 1 + n, H / patch, W / patch).

        A logit is `scale` x the cosine of a patch with the word for the class that fits it best.
        """
        grid = (image.shape[2] // self.stride, image.shape[3] // self.stride)
        patches = self._encoder((image - self.mean) / self.std, image)
        logits = patches.new_full((*patches.shape[:2], self.classes), NEVER)
        for words, owners in zip(self._text.split(AT_ONCE), self._owners.split(AT_ONCE), strict=True):
            found = self._config.scale * patches @ words.T
            logits.scatter_reduce_(2, owners.expand_as(found), found, "amax")
        if self._config.threshold is not None:
            # softmax of the best is below the threshold exactly where its logit is below logsumexp + log threshold
            bar = logits[..., 1:].logsumexp(2) + math.log(self._config.threshold)
            logits[..., 0] = torch.maximum(logits[..., 0], bar)
        logits = logits.mT.unflatten(2, grid)
        return SegmenterOutput(logits, self.stride, None, patches.mT.unflatten(2, grid))
