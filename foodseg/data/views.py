"""A batch of uint8 pictures as the model sees it: colour jitter from the rows' seeds, on the device."""

import numpy as np
import torch

from foodseg.config.augment import AugmentConfig

_STRONG = 1  # which random numbers of a row's seed; the crop itself uses the seed as it is


def jittered_view(
    image: torch.Tensor, extent: torch.Tensor, mean: torch.Tensor, seed: torch.Tensor, augment: AugmentConfig
) -> torch.Tensor:
    """(B, 3, H, W) uint8 -> float32 in [0, 1], contrast (about mid grey) and then brightness drawn from a row's seed.

    `seed` is (B,) int64. Pixels outside `extent` (B, 4) are set to `mean` (1, 3, 1, 1).
    """
    draws = np.stack([_draw(int(s), augment) for s in seed.tolist()])
    contrast, shift = torch.from_numpy(draws).to(image.device).T.reshape(2, -1, 1, 1, 1)
    jittered = ((image.float() / 255 - 0.5) * contrast + (0.5 + shift)).clamp_(0, 1)
    return torch.where(real_pixels(extent, *image.shape[-2:])[:, None], jittered, mean.to(jittered.dtype))


def _draw(seed: int, augment: AugmentConfig) -> np.ndarray:
    rng = np.random.default_rng([seed, _STRONG])
    return np.array([rng.uniform(*augment.contrast), rng.uniform(-augment.brightness, augment.brightness)], np.float32)


def real_pixels(extent: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 4) int32 top, left, bottom, right -> (B, height, width) bool, False where the picture was padded."""
    y = torch.arange(height, device=extent.device)[None, :, None]
    x = torch.arange(width, device=extent.device)[None, None, :]
    top, left, bottom, right = (edge[:, None, None] for edge in extent.unbind(1))
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)
