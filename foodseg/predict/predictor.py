"""From images to their class scores: fit, pad, forward (whole or in windows, mirrored or not), adjust, restrict.

    predictor = Predictor(model, config.eval, device, config.train.precision)
    ids, confidence = predictor.logits_of_file(data).ids_and_confidence(temperature)
    first, second = predictor.logits([image, other], [image.shape[:2], other.shape[:2]])

This is the only way from an image to its labels: validation, `evaluate`, `predict` and the endpoint all use it. Images
of one canvas share a forward pass. But for rounding, the scores of an image do not depend on the
others in its batch.

With several `eval.scales` an image is shown once at each of its sizes, and the scores are averaged (`image_logits.py`).

The conditioning classes of an image are chosen once, before it is cut into windows: all classes (vocabulary), the
model's image-level prediction from the whole image, the mean over its sizes (predicted), or the caller's list
(provided). The features of a
model with text fusion are conditioned on them; the class scores are restricted to them only by `eval.restrict`.

Shape letters: B images; K classes; H, W canvas; h, w grid of the logits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from foodseg.classes import BACKGROUND
from foodseg.config.evaluation import EvalConfig
from foodseg.data.image_io import decode_image, fit_longest, image_size, resize_image
from foodseg.errors import UserError
from foodseg.models.build import Network
from foodseg.models.clip.dense_segmenter import DenseSegmenter
from foodseg.models.exported import ExportedNetwork
from foodseg.models.open_vocabulary import NamedSegmenter, OpenVocabularyNetwork
from foodseg.models.realtime import RealtimeNetwork
from foodseg.models.segmenter import SegmenterNetwork
from foodseg.predict.canvas import fitted_size, padded_size, pick_canvas
from foodseg.predict.image_logits import ImageLogits, mean_of_views

# Up to this longer side images are decoded at full size, as by the endpoint (default of `image.longest_side`), so that
# all see the same pixels. A larger JPEG is decoded at the smallest scale that suffices for the model.
DECODED_WHOLE = 1024
WINDOWS_AT_ONCE = {"cpu": 1, "cuda": 8}  # in one forward pass; a CPU gains nothing from more
CPU = torch.device("cpu")
RULED_OUT = -1e4  # finite, so that scores can still be blended; softmax gives such a class probability 0
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class _View(NamedTuple):
    """Some images of a batch at one of the sizes that the model sees them at, padded to one canvas.

    members: which images of the batch. images: (H, W, 3) uint8 each, not resized yet. fitted: (height, width) that the
    model sees each at. pixels: (B, 3, H, W) float in [0, 1].
    """

    members: list[int]
    images: list[np.ndarray]
    fitted: list[tuple[int, int]]
    pixels: torch.Tensor


class Predictor:
    """Labels images with one model; not safe to call from several threads at once.

    Only the mode and the device of the model are changed: training continues with it after validation.
    """

    def __init__(
        self,
        model: Network | DenseSegmenter | NamedSegmenter | ExportedNetwork,
        config: EvalConfig,
        device: torch.device,
        precision: str = "fp32",
        canvases: Sequence[tuple[int, int]] = (),
        class_pixels: Sequence[int] | None = None,
    ) -> None:
        """Takes the model as it is.

        Args:
            device: an exported model computes on the CPU, whatever it is.
            precision: that of train.precision: fp32, bf16 or fp16 (autocast).
            canvases: (height, width) that images of several sizes are padded to, so that they share batches (see
                `pick_canvas`). More padding changes the scores a little: without canvases they are those of the image
                alone.
            class_pixels: (K,) training pixels of each class, for `eval.logit_adjustment`; None = not known.

        Raises:
            UserError: as `logit_offsets`.
        """
        offsets = logit_offsets(config, class_pixels)
        device = CPU if isinstance(model, ExportedNetwork) else device
        self._offsets = None if offsets is None else offsets.to(device)
        self._model = model.eval().to(device)
        self._config = config
        self._device = device
        self._autocast = AUTOCAST[precision]
        self._canvases = canvases

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) that an image of this size is padded to; only those of one canvas are batched.

        With several `eval.scales` that is the canvas of the largest.
        """
        return pick_canvas(self._config, self._model.size_multiple, height, width, self._canvases)

    def decode(self, data: bytes) -> tuple[np.ndarray, tuple[int, int]]:
        """Returns an encoded image (H, W, 3) uint8 RGB, as large as the model needs it, and its own (height, width).

        Raises:
            UserError: the image cannot be read.
        """
        size = image_size(data)
        return decode_image(data, None if max(size) <= DECODED_WHOLE else fitted_size(self._config, *size)), size

    def logits_of_file(self, data: bytes, provided: Sequence[int] | None = None) -> ImageLogits:
        """Returns the class scores of an encoded image, for label maps of its own size; `provided`: ids for it.

        Raises:
            UserError: the image cannot be read.
        """
        image, size = self.decode(data)
        return self.logits([image], [size], None if provided is None else [provided])[0]

    @torch.inference_mode()
    def logits(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        provided: Sequence[Sequence[int]] | None = None,
    ) -> list[ImageLogits]:
        """Returns the class scores of each image; all of one canvas go through the model together.

        Args:
            images: (H, W, 3) uint8 RGB each, upright, at any scale of the image.
            sizes: (height, width) of the label map of each; the model sees what `eval.longest_side` says of this size.
            provided: conditioning classes of each image (ids), needed by `eval.ingredients` = provided.
        """
        answers: dict[int, ImageLogits] = {}
        for members in _grouped(self.canvas(*size) for size in sizes).values():
            listed = None if provided is None else [provided[i] for i in members]
            together = self._batch([images[i] for i in members], [sizes[i] for i in members], listed)
            answers.update(zip(members, together, strict=True))
        return [answers[i] for i in range(len(images))]

    @torch.inference_mode()
    def probe(self, side: int) -> None:
        """Shows the model one grey image of side x side pixels, a multiple of its `size_multiple`.

        Raises:
            RuntimeError: it cannot compute any more, or what it computes is not finite.
        """
        grey = torch.full((1, 3, side, side), 0.5, device=self._device)
        if not bool(torch.isfinite(self._forward(grey, None)).all()):
            raise RuntimeError("the class scores are not finite")

    def _batch(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        provided: Sequence[Sequence[int]] | None,
    ) -> list[ImageLogits]:
        views = [view for scale in self._config.scales for view in self._views(images, sizes, scale)]
        probabilities = self._probabilities(len(images), views, provided)
        conditioning = None if probabilities is None else probabilities >= self._config.ingredients_threshold
        found: list[list[ImageLogits]] = [[] for _ in images]
        for view in views:
            listed = None if conditioning is None else conditioning[view.members]
            values = self._windows(view.pixels, listed)
            if self._config.flip:
                # the padded image is mirrored as a whole, so that the mirrored logits are on the same grid
                values = (values + self._windows(view.pixels.flip(-1), listed).flip(-1)) / 2
            for member, fit, scores in zip(view.members, view.fitted, values, strict=True):
                found[member].append(ImageLogits(scores, self._model.stride, fit, *sizes[member]))
        answers = []
        for index, parts in enumerate(found):
            logits = mean_of_views(parts)
            if self._offsets is not None:
                logits = replace(logits, values=logits.values + self._offsets[:, None, None])
            if probabilities is not None and conditioning is not None:
                scores = restricted(logits.values, probabilities[index], self._config)
                logits = replace(logits, values=scores, conditioning=conditioning[index].cpu().numpy())
            answers.append(logits)
        return answers

    def _views(self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], scale: float) -> Iterator[_View]:
        """Yields the images at one of `eval.scales`, those of one canvas together.

        Images that share a canvas at the largest scale may have different ones at a smaller scale.
        """
        multiple = self._model.size_multiple
        canvases = (pick_canvas(self._config, multiple, *size, self._canvases, scale) for size in sizes)
        for canvas, members in _grouped(canvases).items():
            own = [images[i] for i in members]
            fitted = [fitted_size(self._config, *sizes[i], scale) for i in members]
            yield _View(members, own, fitted, self._pixels(own, fitted, canvas))

    def _pixels(
        self, images: Sequence[np.ndarray], fitted: Sequence[tuple[int, int]], canvas: tuple[int, int]
    ) -> torch.Tensor:
        """Returns (B, 3, H, W) float in [0, 1]: the images, resized to `fitted`; channel means right and below."""
        views = self._model.mean.expand(len(images), 3, *canvas).clone()
        for view, image, (height, width) in zip(views, images, fitted, strict=True):
            pixels = torch.from_numpy(np.ascontiguousarray(resize_image(image, height, width))).to(self._device)
            view[:, :height, :width] = pixels.permute(2, 0, 1).float() / 255
        return views

    def _probabilities(
        self, images: int, views: Sequence[_View], provided: Sequence[Sequence[int]] | None
    ) -> torch.Tensor | None:
        """Returns (images, K) float32, how probable each id is on each image, background 1; None = not conditioned."""
        if self._config.ingredients == "vocabulary":
            return None
        known = torch.zeros(images, self._trained().classes, device=self._device)
        if self._config.ingredients == "predicted":
            for view in views:
                known[view.members] += self._predicted(view)
            return known / len(self._config.scales)
        assert provided is not None, "eval.ingredients = provided needs the conditioning classes of each image"
        for row, ids in zip(known, provided, strict=True):
            row[[BACKGROUND, *ids]] = 1
        return known

    def _predicted(self, view: _View) -> torch.Tensor:
        """Returns the image-level prediction (B, K), made of each whole image on its own canvas.

        The head takes the mean over all grid cells, those of padding too: a larger canvas would change what it finds.
        With windows the image is as large as a window, and its shape is its own, not that of the padded view.
        """
        window, multiple = self._config.window, self._model.size_multiple
        shown = view.fitted
        if window is not None:
            shown = [fit_longest(*size, min(window, max(size))) for size in shown]
        groups = _grouped(padded_size(*size, multiple) for size in shown)
        if window is None and list(groups) == [tuple(view.pixels.shape[-2:])]:
            return self._image_level(view.pixels)
        found = torch.empty(len(shown), self._trained().classes, device=self._device)
        for canvas, members in groups.items():
            whole = self._pixels([view.images[i] for i in members], [shown[i] for i in members], canvas)
            found[members] = self._image_level(whole)
        return found

    def _image_level(self, views: torch.Tensor) -> torch.Tensor:
        with self._precision():
            return self._trained().predict_ingredients(views.contiguous(memory_format=torch.channels_last))

    def _windows(self, views: torch.Tensor, conditioning: torch.Tensor | None) -> torch.Tensor:
        """Returns (B, K, h, w) float32 logits of padded images, the mean where windows overlap."""
        height, width = views.shape[-2:]
        window = self._config.window
        if window is None or (height <= window and width <= window):
            return self._forward(views, conditioning)
        stride = self._model.stride
        step = self._config.stride or window * 2 // 3
        columns = list(_starts(width, window, step, stride))
        corners = [(top, left) for top in _starts(height, window, step, stride) for left in columns]
        at_once = max(1, WINDOWS_AT_ONCE.get(self._device.type, 1) // len(views))
        total: torch.Tensor | None = None
        for first in range(0, len(corners), at_once):
            cut = corners[first : first + at_once]
            crops = torch.cat([views[..., top : top + window, left : left + window] for top, left in cut])
            found = self._forward(crops, None if conditioning is None else conditioning.repeat(len(cut), 1))
            if total is None:
                total = found.new_zeros(len(views), found.shape[1], height // stride, width // stride)
                seen = found.new_zeros(height // stride, width // stride)
            for (top, left), part in zip(cut, found.split(len(views)), strict=True):
                rows = slice(top // stride, top // stride + part.shape[2])
                cells = slice(left // stride, left // stride + part.shape[3])
                total[..., rows, cells] += part
                seen[rows, cells] += 1
        assert total is not None
        return total / seen

    def _forward(self, views: torch.Tensor, conditioning: torch.Tensor | None) -> torch.Tensor:
        """(B, 3, H, W), conditioning (B, K) -> (B, K, h, w) float32."""
        views = views.contiguous(memory_format=torch.channels_last)
        with self._precision():
            if conditioning is None or self._model.fusion is None:  # without fusion they only restrict the scores
                return self._model(views).logits.float()
            return self._trained()(views, ingredients=conditioning).logits.float()

    def _trained(self) -> SegmenterNetwork | ExportedNetwork:
        others = DenseSegmenter | NamedSegmenter | OpenVocabularyNetwork | RealtimeNetwork
        assert not isinstance(self._model, others), "only a network with an FPN decoder is conditioned on ingredients"
        return self._model

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None)


def logit_offsets(config: EvalConfig, class_pixels: Sequence[int] | None) -> torch.Tensor | None:
    """Returns (K,) float32, what `eval.logit_adjustment` tau adds to the logits; None where it is 0.

    That is -tau log pi_k (Menon et al., Long-tail learning via logit adjustment, 2021), with pi_k the share of class k
    among the labelled training pixels, less the same of the commonest class: softmax and argmax do not see the
    difference. So the commonest class keeps its logit, and so does a class without training pixels, for which there is
    no share: it is not raised.

    Args:
        class_pixels: (K,) training pixels of each class; None = not known.

    Raises:
        UserError: they are needed and not known.
    """
    if config.logit_adjustment == 0:
        return None
    if class_pixels is None:
        raise UserError(
            f"eval.logit_adjustment = {config.logit_adjustment:g} needs the training pixels of each class, which a "
            "checkpoint written by foodseg 0.1.0 does not hold: train again, or set eval.logit_adjustment=0"
        )
    pixels = torch.tensor(class_pixels, dtype=torch.float64)
    rarity = torch.where(pixels > 0, (pixels.max() / pixels.clamp_min(1)).log(), 0.0)
    return (config.logit_adjustment * rarity).float()


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


def _grouped(keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Returns the positions of each key, in order."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups
