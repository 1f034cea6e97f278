"""From an image to its label map: fit, pad, forward (whole or in windows, mirrored or not), resize, argmax.

Memory stays small on large images: logits are kept at the model's stride, and resizing, argmax and softmax go in
bands of rows, so that the K x height x width scores never exist at once.

    ids, confidence = predictor.logits(image, height, width).ids_and_confidence(temperature)

The conditioning classes of an image are chosen once, before it is cut into windows: all classes (vocabulary), the
model's image-level prediction from the whole image (predicted), or the caller's list (provided). The features of a
model with text fusion are conditioned on them; the class scores are restricted to them only by `eval.restrict`.

Shape letters: K classes; h, w grid of the logits; n pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

from foodseg.classes import BACKGROUND
from foodseg.config.evaluation import EvalConfig
from foodseg.data.image_io import decode_image, fit_longest, image_size, resize_image
from foodseg.models.segmenter import Segmenter

BAND_BYTES = 4 * 2**20  # of float32 scores in one band: what stays in the processor's cache
RULED_OUT = -1e4  # finite, so that scores can still be blended; softmax gives such a class probability 0
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Predictor:
    """Labels images with one model; not safe to call from several threads at once.

    Only the mode and the device of the model are changed: training continues with it after validation.
    """

    def __init__(self, model: Segmenter, config: EvalConfig, device: torch.device, precision: str = "fp32") -> None:
        """`precision` is that of train.precision: fp32, bf16 or fp16 (autocast)."""
        self._model = model.eval().to(device)
        self._config = config
        self._device = device
        self._autocast = AUTOCAST[precision]

    def logits_of_file(self, data: bytes, provided: Sequence[int] | None = None) -> "ImageLogits":
        """Returns the class scores of an encoded image, for label maps of its own size; `provided` as for `logits`.

        Raises:
            UserError: the image cannot be read.
        """
        height, width = image_size(data)
        return self.logits(decode_image(data, at_least=self._fitted(height, width)), height, width, provided)

    @torch.inference_mode()
    def logits(
        self, image: np.ndarray, height: int, width: int, provided: Sequence[int] | None = None
    ) -> "ImageLogits":
        """Returns the class scores of an image.

        Args:
            image: (H, W, 3) uint8 RGB, upright, at any scale of the image.
            height, width: size of the label map; the model sees what `eval.longest_side` says of this size.
            provided: conditioning classes (ids), needed by `eval.ingredients` = provided.
        """
        fitted = self._fitted(height, width)
        view = self._view(image, *fitted)
        probabilities = self._probabilities(image, fitted, view, provided)
        conditioning = None if probabilities is None else probabilities >= self._config.ingredients_threshold
        logits = self._windows(view, conditioning)
        if self._config.flip:
            # the padded image is mirrored as a whole, so that the mirrored logits are on the same grid
            logits = (logits + self._windows(view.flip(-1), conditioning).flip(-1)) / 2
        if probabilities is not None:
            logits = restricted(logits, probabilities, self._config)
        chosen = None if conditioning is None else conditioning.cpu().numpy()
        return ImageLogits(logits, self._model.stride, fitted, height, width, chosen)

    def _view(self, image: np.ndarray, height: int, width: int) -> torch.Tensor:
        """Returns the image, resized and padded, as (1, 3, H, W) float in [0, 1]."""
        pixels = torch.from_numpy(np.ascontiguousarray(resize_image(image, height, width))).to(self._device)
        return self._padded(pixels.permute(2, 0, 1)[None].float() / 255)

    def _probabilities(
        self, image: np.ndarray, fitted: tuple[int, int], view: torch.Tensor, provided: Sequence[int] | None
    ) -> torch.Tensor | None:
        """Returns (K,) float32, how probable each id is on the image, background 1; None = not conditioned."""
        if self._config.ingredients == "vocabulary":
            return None
        if self._config.ingredients == "provided":
            assert provided is not None, "eval.ingredients = provided needs the conditioning classes of each image"
            known = torch.zeros(self._model.classifier.out_channels, device=self._device)
            known[[BACKGROUND, *provided]] = 1
            return known
        window = self._config.window
        if window is not None and max(fitted) > window:
            # image-level prediction needs the whole image in one piece, in its own shape and not that of the padded
            # view
            view = self._view(image, *fit_longest(*fitted, window))
        view = view.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            return self._model.predict_ingredients(view)[0]

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

    def _windows(self, view: torch.Tensor, conditioning: torch.Tensor | None) -> torch.Tensor:
        """Returns (K, h, w) float32 logits of a padded image (1, 3, H, W), the mean where windows overlap."""
        height, width = view.shape[-2:]
        window = self._config.window
        if window is None or (height <= window and width <= window):
            return self._forward(view, conditioning)
        total: torch.Tensor | None = None
        stride = self._model.stride
        step = self._config.stride or window * 2 // 3
        for top in _starts(height, window, step, stride):
            for left in _starts(width, window, step, stride):
                part = self._forward(view[..., top : top + window, left : left + window], conditioning)
                if total is None:
                    total = part.new_zeros(part.shape[0], height // stride, width // stride)
                    seen = part.new_zeros(height // stride, width // stride)
                y, x = top // stride, left // stride
                total[:, y : y + part.shape[1], x : x + part.shape[2]] += part
                seen[y : y + part.shape[1], x : x + part.shape[2]] += 1
        assert total is not None
        return total / seen

    def _forward(self, view: torch.Tensor, conditioning: torch.Tensor | None) -> torch.Tensor:
        view = view.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            if conditioning is None or self._model.fusion is None:  # without fusion they only restrict the scores
                return self._model(view).logits[0].float()
            return self._model(view, ingredients=conditioning[None]).logits[0].float()


def restricted(logits: torch.Tensor, probabilities: torch.Tensor, config: EvalConfig) -> torch.Tensor:
    """Returns (K, h, w) class scores as `eval.restrict` changes them; background stays as it is.

    soft: logit_k + lambda x log(p_k + 0.01). hard: classes less probable than `eval.ingredients_threshold` are ruled
        out.

    Args:
        logits: (K, h, w) float32. probabilities: (K,) of each id on the image; 0 and 1 for provided classes.
    """
    if config.restrict == "none":
        return logits
    change = torch.zeros_like(probabilities)
    if config.restrict == "soft":
        change[1:] = config.restrict_lambda * (probabilities[1:] + 0.01).log()
        return logits + change[:, None, None]
    change[1:] = torch.where(probabilities[1:] >= config.ingredients_threshold, 0.0, RULED_OUT)
    return logits + change[:, None, None]


def _starts(side: int, window: int, step: int, stride: int) -> Iterator[int]:
    """Where windows begin, on the grid of the logits; the last one ends at the border."""
    last = max(0, side - window)
    yield from (start // stride * stride for start in range(0, last, step))
    yield last // stride * stride


@dataclass(frozen=True, eq=False)
class ImageLogits:
    """Class scores of one image on the model's grid; resized bilinearly (half-pixel centres) when ids are computed.

    values: (K, h, w) float32 at `stride` of an image of size `fitted` (height, width), padded right and bottom.
    height, width: of the label map.
    conditioning: (K,) bool, the conditioning classes; None = all classes.
    """

    values: torch.Tensor
    stride: int
    fitted: tuple[int, int]
    height: int
    width: int
    conditioning: np.ndarray | None = None

    @torch.inference_mode()
    def ids(self) -> np.ndarray:
        """Returns (height, width) uint8 ids of the best class, uint16 for more than 256 classes."""
        ids = self._no_ids()
        for band, scores in self._bands():
            ids[band] = scores.argmax(0).cpu().numpy()
        return ids

    @torch.inference_mode()
    def ids_and_confidence(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the same ids, and (height, width) uint16 confidences.

        Confidence is the greatest softmax probability of the logits divided by `temperature`; 65535 = certain.
        """
        ids, confidence = self._no_ids(), np.empty((self.height, self.width), np.uint16)
        for band, scores in self._bands():
            best = scores.argmax(0)
            ids[band] = best.cpu().numpy()
            # the best class has probability exp(0) / sum
            below = scores.sub_(scores.gather(0, best[None])).div_(temperature)
            share = below.exp_().sum(0).reciprocal_()
            confidence[band] = share.mul_(np.iinfo(np.uint16).max).round_().int().cpu().numpy()
        return ids, confidence

    @torch.inference_mode()
    def at(self, pixels: np.ndarray) -> np.ndarray:
        """Returns (K, n) float32 logits of single pixels of the label map, numbered row by row: (n,) integers."""
        positions = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.int64)).to(self.values.device)
        rows, columns = positions // self.width, positions % self.width
        tops, bottoms, down = (tap[rows] for tap in self._row_taps())
        lefts, rights, across = (tap[columns] for tap in self._column_taps())
        upper = torch.lerp(self.values[:, tops, lefts], self.values[:, tops, rights], across)
        lower = torch.lerp(self.values[:, bottoms, lefts], self.values[:, bottoms, rights], across)
        return torch.lerp(upper, lower, down).cpu().numpy()

    def _no_ids(self) -> np.ndarray:
        return np.empty((self.height, self.width), np.uint8 if len(self.values) <= 256 else np.uint16)

    def _bands(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields rows of the label map and their scores (K, rows, width), which the caller may overwrite."""
        classes, _, grid_width = self.values.shape
        rows = max(1, BAND_BYTES // (4 * classes * max(self.width, grid_width)))
        low, high, blend = self._row_taps()
        for top in range(0, self.height, rows):
            band = slice(top, min(top + rows, self.height))
            lines = torch.lerp(self.values[:, low[band]], self.values[:, high[band]], blend[band][:, None])
            yield band, _widened(lines, self.fitted[1] / self.stride, self.width)

    def _row_taps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale = self.fitted[0] / (self.stride * self.height)
        return _taps(self.height, scale, self.values.shape[1], self.values.device)

    def _column_taps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale = self.fitted[1] / (self.stride * self.width)
        return _taps(self.width, scale, self.values.shape[2], self.values.device)


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
