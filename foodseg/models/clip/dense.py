"""Dense CLIP: how well each of many names fits each patch of an image. Nothing is trained.

CLIP compares an image as a whole with names. Its patches can be compared too, once the attention of the last block no
longer mixes them as a class token needs it. What takes the place of softmax(q k^T / sqrt d), with q, k, v those of the
block and d the width of a head:

- maskclip: each patch attends to itself alone (MaskCLIP: Zhou et al., 2022; chongzhou96/MaskCLIP).
- sclip: softmax(q q^T / sqrt d) + softmax(k k^T / sqrt d) (SCLIP: Wang et al., 2024; wangf3014/SCLIP).
- clearclip: softmax(q q^T / sqrt d) (ClearCLIP: Lan et al., 2024; mc-lan/ClearCLIP).
- naclip: softmax(k k^T / sqrt d + w), with w a Gaussian of the distance of two patches (NACLIP: Hajimiri et al., 2025;
  sinahmr/NACLIP).
- proxy: patches attend to those that an external encoder finds alike (ProxyCLIP: Lan et al., 2024; mc-lan/ProxyCLIP).

The first two keep the residual stream and the feed-forward part of the block, the other three drop both.

Shape letters: B images; H, W of an image; h, w grid of patches; N = P + h w tokens; C, D widths; A heads; n names.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from foodseg.errors import UserError
from foodseg.models.clip.patch_tower import PatchTower

DenseAttention = Literal["maskclip", "sclip", "clearclip", "naclip", "proxy"]
KEEPS_RESIDUAL = ("maskclip", "sclip")
NEAR = 5.0  # patches, the standard deviation of NACLIP's Gaussian
SHARPNESS, SUBTRACTED = 3.0, 1.2  # ProxyCLIP's: attention is 3 x (similarity - 1.2 x its mean)

ExternalEncoder = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]
"""(B, 3, H, W) in [0, 1], and a grid (h, w) -> features (B, C, h, w) of its cells."""


class DenseImageEncoder(nn.Module):
    """Embeds each patch of an image in the space of the text embeddings."""

    def __init__(self, tower: PatchTower, attention: DenseAttention, external: ExternalEncoder | None = None) -> None:
        """Takes an opened image tower, and for `proxy` an external encoder.

        Raises:
            UserError: `proxy` without an external encoder, or one that another attention would not use.
        """
        super().__init__()
        if attention not in get_args(DenseAttention):
            raise UserError(f"attention {attention!r}: use {', '.join(get_args(DenseAttention))}")
        if (external is None) == (attention == "proxy"):
            need = "needs an external encoder" if external is None else "uses no external encoder"
            raise UserError(f"attention {attention} {need}")
        self._tower, self._attention, self._external = tower, attention, external

    def forward(self, image: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Embeds the patches of images whose sides are multiples of the patch.

        Args:
            image: (B, 3, H, W) float, normalised as CLIP expects. pixels: the same in [0, 1], for an external encoder.

        Returns:
            (B, h w, D), of length 1.
        """
        tower, last = self._tower, self._tower.last
        grid = (image.shape[2] // tower.patch, image.shape[3] // tower.patch)
        tokens = tower.tokens(image)
        query, key, value = last.heads(tokens)
        if self._attention == "proxy":
            assert self._external is not None
            # the class token takes no part: the external encoder has no feature for it
            bias = proxy_bias(self._external(pixels, grid))[:, None].to(value.dtype)
            nothing = torch.zeros_like(value[:, :, tower.prefix :])
            mixed = scaled_dot_product_attention(nothing, nothing, value[:, :, tower.prefix :], attn_mask=bias)
        else:
            mixed = _mixed(self._attention, query, key, value, grid, tower.prefix)[:, :, tower.prefix :]
        x = last.project(mixed.transpose(1, 2).flatten(2))
        if self._attention in KEEPS_RESIDUAL:
            x = tokens[:, tower.prefix :] + x
            x = x + last.feed_forward(x)
        return normalize(tower.embed(x).float(), dim=2)


def proxy_bias(features: torch.Tensor) -> torch.Tensor:
    """Returns (B, h w, h w) what ProxyCLIP takes the softmax of; -inf where two patches are not alike.

    A patch is always alike itself: on an image of one colour all similarities are 1 and nothing exceeds 1.2 x the mean,
    which would leave no patch to attend to.

    Args:
        features: (B, C, h, w) of an external encoder.
    """
    directions = normalize(features.float().flatten(2), dim=1)
    similar = directions.mT @ directions
    bias = SHARPNESS * (similar - SUBTRACTED * similar.mean((1, 2), keepdim=True))
    itself = torch.eye(bias.shape[1], dtype=torch.bool, device=bias.device)
    return bias.masked_fill((bias < 0) & ~itself, float("-inf"))


def neighbour_bias(grid: tuple[int, int], prefix: int) -> torch.Tensor:
    """Returns (N, N) float32, NACLIP's Gaussian of the distance of two patches; 0 for tokens of no patch."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in grid), indexing="ij")
    locations = torch.stack([rows.flatten(), columns.flatten()], 1)
    squared = (locations[:, None] - locations[None]).square().sum(2)
    return nn.functional.pad((-squared / (2 * NEAR**2)).exp(), (prefix, 0, prefix, 0))


def _mixed(
    attention: DenseAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    grid: tuple[int, int],
    prefix: int,
) -> torch.Tensor:
    """(B, A, N, C / A) each -> the same, values mixed by attention."""
    if attention == "maskclip":
        return value
    if attention == "sclip":
        return scaled_dot_product_attention(query, query, value) + scaled_dot_product_attention(key, key, value)
    if attention == "clearclip":
        return scaled_dot_product_attention(query, query, value)
    near = neighbour_bias(grid, prefix).to(device=key.device, dtype=key.dtype)
    return scaled_dot_product_attention(key, key, value, attn_mask=near)
