"""Encoders whose features say which patches of an image are alike, for the attention `proxy` of dense CLIP.

external = vit_features("vit_small_patch14_dinov2", "vit.safetensors", device)
features = external(pixels, (14, 14))       # (B, 3, H, W) in [0, 1] -> (B, C, 14, 14)
"""

import torch
from torch.nn.functional import interpolate
from torchvision.transforms.functional import normalize

from foodseg.config.vit import IMAGENET_MEAN, IMAGENET_STD, ViTConfig
from foodseg.models.backbones.vit import STRIDE, TokenEncoder
from foodseg.models.clip.dense import ExternalEncoder
from foodseg.models.sam.sam import SamModel


def vit_features(name: str, weights: str | None, device: torch.device) -> ExternalEncoder:
    """Returns the last tokens of a plain ViT of timm, one for each patch of CLIP: the image is resized for that.

    Args:
        weights: file or URI; None = those of timm's hub.

    Raises:
        UserError: as `TokenEncoder`.
    """
    encoder = TokenEncoder(name, ViTConfig(), weights or "timm", "dense").eval().to(device)
    mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)

    def features(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        size = [side * STRIDE for side in grid]
        if list(pixels.shape[2:]) != size:
            pixels = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        tokens: torch.Tensor = encoder(normalize(pixels, mean, std))
        return tokens

    return features


def sam_features(sam: SamModel) -> ExternalEncoder:
    """Returns the embedding of Segment Anything, resized to the patches of CLIP."""

    def features(pixels: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        found = []
        for image in pixels:
            whole = (255 * image.permute(1, 2, 0)).round().to(torch.uint8).cpu().numpy()
            embedding = sam.embed(whole)
            height, width = embedding.fitted
            cells = embedding.features.shape[2] / max(height, width)
            inside = embedding.features[:, :, : round(height * cells), : round(width * cells)]
            found.append(interpolate(inside, grid, mode="bilinear", align_corners=False, antialias=True))
        return torch.cat(found)

    return features
