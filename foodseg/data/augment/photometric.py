"""Views of a batch of uint8 images on the device: the plain view, and one jittered by the seeds of the rows.

Both views are of the same crop and differ only in colour and sharpness, never in geometry.

Shapes: B images of H x W pixels.
"""

from typing import Any

import numpy as np
import torch

from foodseg.config.augment import AugmentConfig
from foodseg.data.device_copy import to_device
from foodseg.data.rng import RandomStream, generator

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SHARP = 1e-3  # pixels; a blur of this sigma has no effect


def plain_view(image: torch.Tensor, extent: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) uint8 -> float32 in [0, 1], unchanged: for the teacher, and for the model at evaluation.

    Pixels outside `extent` (B, 4) are set to `mean` (1, 3, 1, 1).
    """
    return _padded(image.float() / 255, extent, mean)


STRONG: dict[str, Any] = {"saturation": (0.6, 1.4), "light": 0.3, "blur": 2.0}  # of images without mask


def jittered_view(
    image: torch.Tensor, extent: torch.Tensor, mean: torch.Tensor, seed: torch.Tensor, augment: AugmentConfig
) -> torch.Tensor:
    """(B, 3, H, W) uint8 -> float32 in [0, 1] with the colour jitter and blur of `augment`, drawn from a row's seed.

    Blur, colour of the light, saturation, then contrast (about mid grey) and brightness. `seed` is (B,) int64, on the
    CPU. Pixels outside `extent` (B, 4) are set to `mean` (1, 3, 1, 1).
    """
    drawn = torch.from_numpy(np.stack([_draw(int(s), augment) for s in seed.tolist()]))
    draws = to_device(drawn, image.device)
    contrast, shift, saturation = draws[:, :3].T.reshape(3, -1, 1, 1, 1)
    pixels = image.float() / 255
    if augment.blur > 0:
        pixels = _blurred(pixels, extent, draws[:, 6])
    if augment.light > 0:
        pixels = pixels * draws[:, 3:6, None, None]
    if augment.saturation != (1.0, 1.0):
        shares = to_device(torch.tensor(_GREY).view(1, 3, 1, 1), image.device)
        grey = (pixels * shares).sum(1, keepdim=True)
        pixels = grey + (pixels - grey) * saturation
    if augment.contrast != (1.0, 1.0) or augment.brightness > 0:
        pixels = (pixels - 0.5) * contrast + (0.5 + shift)
    return _padded(pixels.clamp_(0, 1), extent, mean)


def _draw(seed: int, augment: AugmentConfig) -> np.ndarray:
    """Returns (7,) float32: contrast, brightness, saturation, three channels' light, blur."""
    rng = generator(seed, RandomStream.STRONG_VIEW)
    contrast, shift = rng.uniform(*augment.contrast), rng.uniform(-augment.brightness, augment.brightness)
    saturation = rng.uniform(*augment.saturation)
    light = rng.uniform(1 - augment.light, 1 + augment.light, 3)
    return np.array([contrast, shift, saturation, *light, rng.uniform(0, augment.blur)], np.float32)


def _padded(view: torch.Tensor, extent: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return torch.where(real_pixels(extent, *view.shape[-2:])[:, None], view, mean.to(view.dtype))


def _blurred(pixels: torch.Tensor, extent: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of (B, 3, H, W), of another standard deviation (B,) for each; nothing of the padding comes in."""
    top, left, bottom, right = extent.unbind(1)
    with torch.autocast(pixels.device.type, enabled=False):
        down = _blur_weights(pixels.shape[2], top, bottom, sigma)
        across = _blur_weights(pixels.shape[3], left, right, sigma)
        blurred = down @ pixels @ across.transpose(-1, -2)
    return blurred.contiguous(memory_format=torch.channels_last)


def _blur_weights(side: int, low: torch.Tensor, high: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Returns (B, 1, side, side): row i holds the weights of the pixels low..high-1 in pixel i, which add up to 1."""
    pixel = torch.arange(side, device=sigma.device)
    distance = (pixel[:, None] - pixel[None, :]).float()
    exponent = -0.5 * (distance[None] / sigma.clamp_min(_SHARP)[:, None, None]) ** 2
    real = (pixel >= low[:, None]) & (pixel < high[:, None])
    return exponent.masked_fill(~real[:, None], -torch.inf).softmax(-1)[:, None]


def real_pixels(extent: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, 4) int32 top, left, bottom, right -> (B, height, width) bool, False where the image was padded."""
    y = torch.arange(height, device=extent.device)[None, :, None]
    x = torch.arange(width, device=extent.device)[None, None, :]
    top, left, bottom, right = (edge[:, None, None] for edge in extent.unbind(1))
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def real_pixels_per_cell(extent: torch.Tensor, height: int, width: int, stride: int) -> torch.Tensor:
    """(B, 4) int32 -> (B, height, width) float32: of the stride x stride pixels in each cell, how many are real."""
    top, left, bottom, right = extent.unbind(1)
    rows, columns = _overlap(height, stride, top, bottom), _overlap(width, stride, left, right)
    return (rows[:, :, None] * columns[:, None, :]).float()


def _overlap(cells: int, stride: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Returns (B, cells): how many of the pixels of each cell are in low..high-1."""
    start = torch.arange(cells, device=low.device)[None] * stride
    ends = torch.minimum(start + stride, high[:, None])
    return (ends - torch.maximum(start, low[:, None])).clamp_min(0)
