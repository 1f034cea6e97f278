"""From a picture to its label map: fit, pad, forward (whole or in windows, mirrored or not), resize, argmax.

Memory stays small on large pictures: logits are kept at the model's stride, and resizing and argmax go in bands of
rows, so that the K x height x width scores never exist at once.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.functional import interpolate

from foodseg.config.evaluation import EvalConfig
from foodseg.data.sample import decode_image, fit_longest, image_size, resize_image
from foodseg.models.segmenter import Segmenter

BAND_BYTES = 4 * 2**20  # of float32 scores in one band: what stays in the processor's cache
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Predictor:
    """Labels pictures with one model; not safe to call from several threads at once.

    The model stays as it is but for mode and device: a training goes on with it after validation.
    """

    def __init__(self, model: Segmenter, config: EvalConfig, device: torch.device, precision: str = "fp32") -> None:
        """`precision` is that of train.precision: fp32, bf16 or fp16 (autocast)."""
        self._model = model.eval().to(device)
        self._config = config
        self._device = device
        self._autocast = AUTOCAST[precision]

    def label_file(self, data: bytes) -> np.ndarray:
        """Returns (H, W) ids at the picture's own size, for an encoded picture.

        Raises:
            UserError: the picture cannot be read.
        """
        height, width = image_size(data)
        return self.label(decode_image(data, at_least=self._fitted(height, width)), height, width)

    @torch.inference_mode()
    def label(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """Returns (height, width) uint8 or uint16 ids.

        Args:
            image: (H, W, 3) uint8 RGB, upright, at any scale of the picture.
            height, width: size of the label map; the model sees what `eval.longest_side` says of this size.
        """
        fitted = self._fitted(height, width)
        pixels = torch.from_numpy(np.ascontiguousarray(resize_image(image, *fitted))).to(self._device)
        view = self._padded(pixels.permute(2, 0, 1)[None].float() / 255)
        logits = self._windows(view)
        if self._config.flip:
            # the padded picture is mirrored as a whole, so that the mirrored logits lie on the same grid
            logits = (logits + self._windows(view.flip(-1)).flip(-1)) / 2
        return resized_argmax(logits, fitted, self._model.stride, height, width)

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        if self._config.longest_side is None:
            return height, width
        return fit_longest(height, width, self._config.longest_side)

    def _padded(self, view: torch.Tensor) -> torch.Tensor:
        """Pads at the right and bottom with the channel means to a multiple of the coarsest stride."""
        multiple = self._model.size_multiple
        height, width = (-(-side // multiple) * multiple for side in view.shape[-2:])
        canvas = self._model.mean.expand(1, 3, height, width).clone()
        canvas[..., : view.shape[-2], : view.shape[-1]] = view
        return canvas

    def _windows(self, view: torch.Tensor) -> torch.Tensor:
        """Returns (K, h, w) float32 logits of a padded picture (1, 3, H, W), the mean where windows overlap."""
        height, width = view.shape[-2:]
        window = self._config.window
        if window is None or (height <= window and width <= window):
            return self._forward(view)
        total: torch.Tensor | None = None
        stride = self._model.stride
        step = self._config.stride or window * 2 // 3
        for top in _starts(height, window, step, stride):
            for left in _starts(width, window, step, stride):
                part = self._forward(view[..., top : top + window, left : left + window])
                if total is None:
                    total = part.new_zeros(part.shape[0], height // stride, width // stride)
                    seen = part.new_zeros(height // stride, width // stride)
                y, x = top // stride, left // stride
                total[:, y : y + part.shape[1], x : x + part.shape[2]] += part
                seen[y : y + part.shape[1], x : x + part.shape[2]] += 1
        assert total is not None
        return total / seen

    def _forward(self, view: torch.Tensor) -> torch.Tensor:
        view = view.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            return self._model(view).logits[0].float()


def _starts(side: int, window: int, step: int, stride: int) -> Iterator[int]:
    """Where windows begin, on the grid of the logits; the last one ends at the border."""
    last = max(0, side - window)
    yield from (start // stride * stride for start in range(0, last, step))
    yield last // stride * stride


def resized_argmax(logits: torch.Tensor, fitted: tuple[int, int], stride: int, height: int, width: int) -> np.ndarray:
    """Resizes logits bilinearly (half-pixel centres) and takes the best class, in bands of rows.

    Args:
        logits: (K, h, w) float32 at `stride` of a picture of size `fitted` that was padded right and bottom.
        fitted: (height, width) of the picture behind the logits, without padding.
        height, width: wanted size.

    Returns:
        (height, width) uint8, or uint16 for more than 256 classes.
    """
    classes = logits.shape[0]
    rows = max(1, BAND_BYTES // (4 * classes * max(width, logits.shape[2])))
    ids = np.empty((height, width), np.uint8 if classes <= 256 else np.uint16)
    low, high, blend = _taps(height, fitted[0] / (stride * height), logits.shape[1], logits.device)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        lines = torch.lerp(logits[:, low[band]], logits[:, high[band]], blend[band][:, None])
        ids[band] = _widened(lines, fitted[1] / stride, width).argmax(0).cpu().numpy()
    return ids


def _widened(lines: torch.Tensor, real: float, width: int) -> torch.Tensor:
    """Resizes (K, rows, w) to (K, rows, width): the first `real` of the w columns fill it, the rest is padding."""
    if real == lines.shape[2]:
        return interpolate(lines[None], size=(lines.shape[1], width), mode="bilinear")[0]
    scaled = interpolate(lines[None], scale_factor=(1.0, width / real), mode="bilinear", recompute_scale_factor=False)
    return scaled[0, :, :, :width]


def _taps(count: int, scale: float, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each output pixel the two source pixels and the share of the second one (align_corners=False)."""
    source = ((torch.arange(count, dtype=torch.float64) + 0.5) * scale - 0.5).clamp(0, size - 1)
    low = source.floor().long()
    high = (low + 1).clamp_max(size - 1)
    return low.to(device), high.to(device), (source - low).float().to(device)
