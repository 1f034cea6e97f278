"""Several images in one forward pass, each padded to a common canvas: what the endpoint batches.

    batched = BatchPredictor(model, config.eval, device)
    canvas = pick_canvas(config.eval, model.size_multiple, height, width, ((512, 512), (384, 512)))
    first, second = batched.logits([image, other], [(h, w), (oh, ow)], canvas)

The scores of an image do not depend on which others are in its batch. They are those of `Predictor` where the canvas
is the size that it would pad to; a larger canvas adds padding at the right and bottom.
"""

from collections.abc import Sequence

import numpy as np
import torch

from foodseg.classes import BACKGROUND
from foodseg.config.evaluation import EvalConfig
from foodseg.data.image_io import fit_longest, resize_image
from foodseg.models.segmenter import Segmenter
from foodseg.predict.predictor import AUTOCAST, ImageLogits, Predictor, restricted

MOST_PADDING = 1.25  # a canvas with more pixels than this many times those needed costs more than it saves


def fitted_size(config: EvalConfig, height: int, width: int) -> tuple[int, int]:
    """Returns the (height, width) at which a model sees an image of this size."""
    if config.longest_side is None:
        return height, width
    return fit_longest(height, width, config.longest_side)


def pick_canvas(
    config: EvalConfig, multiple: int, height: int, width: int, canvases: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Returns the (height, width) that an image of this size is padded to.

    That is the smallest of `canvases` that holds it. Else it is the least size that the model can take, whose sides are
    multiples of `multiple`: where no canvas holds the image, where the best one is mostly padding, and with sliding
    windows, which depend on the padded size.
    """
    own_height, own_width = (-(-side // multiple) * multiple for side in fitted_size(config, height, width))
    if config.window is not None:
        return own_height, own_width
    fits = [
        (tall * wide, tall, wide)
        for tall, wide in canvases
        if tall >= own_height and wide >= own_width and tall % multiple == 0 and wide % multiple == 0
    ]
    if not fits or min(fits)[0] > MOST_PADDING * own_height * own_width:
        return own_height, own_width
    return min(fits)[1:]


class BatchPredictor:
    """Labels images in batches; not safe to call from several threads at once."""

    def __init__(self, model: Segmenter, config: EvalConfig, device: torch.device, precision: str = "fp32") -> None:
        """`precision` is that of train.precision."""
        self._alone = Predictor(model, config, device, precision)
        self._model = model
        self._config = config
        self._device = device
        self._autocast = AUTOCAST[precision]

    @torch.inference_mode()
    def logits(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        canvas: tuple[int, int],
        provided: Sequence[Sequence[int]] | None = None,
    ) -> list[ImageLogits]:
        """Returns the class scores of each image.

        Args:
            images: (H, W, 3) uint8 RGB each, upright, at any scale of the image.
            sizes: (height, width) of the label map of each; the model sees what `eval.longest_side` says of this size.
            canvas: what `pick_canvas` gives for every one of the sizes.
            provided: conditioning classes of each image (ids), needed by `eval.ingredients` = provided.
        """
        if self._config.window is not None:
            ids_of_each = [None] * len(images) if provided is None else provided
            arrays = zip(images, sizes, ids_of_each, strict=True)
            return [self._alone.logits(image, *size, ids) for image, size, ids in arrays]
        views = self._model.mean.expand(len(images), 3, *canvas).clone()
        fitted = [fitted_size(self._config, *size) for size in sizes]
        for view, image, (height, width) in zip(views, images, fitted, strict=True):
            pixels = torch.from_numpy(np.ascontiguousarray(resize_image(image, height, width))).to(self._device)
            view[:, :height, :width] = pixels.permute(2, 0, 1).float() / 255
        probabilities = self._probabilities(views, provided)
        conditioning = None if probabilities is None else probabilities >= self._config.ingredients_threshold
        values = self._forward(views, conditioning)
        if self._config.flip:
            values = (values + self._forward(views.flip(-1), conditioning).flip(-1)) / 2
        answers = []
        for index, (size, fit) in enumerate(zip(sizes, fitted, strict=True)):
            scores, chosen = values[index], None
            if probabilities is not None and conditioning is not None:
                scores = restricted(scores, probabilities[index], self._config)
                chosen = conditioning[index].cpu().numpy()
            answers.append(ImageLogits(scores, self._model.stride, fit, *size, chosen))
        return answers

    @torch.inference_mode()
    def probe(self, side: int) -> None:
        """Shows the model one grey image of side x side pixels, a multiple of its `size_multiple`.

        Raises:
            RuntimeError: it cannot compute any more, or what it computes is not finite.
        """
        grey = torch.full((1, 3, side, side), 0.5, device=self._device)
        if not bool(torch.isfinite(self._forward(grey, None)).all()):
            raise RuntimeError("the class scores are not finite")

    def _probabilities(self, views: torch.Tensor, provided: Sequence[Sequence[int]] | None) -> torch.Tensor | None:
        """Returns (B, K) float32, how probable each id is on each image; None = not conditioned."""
        if self._config.ingredients == "vocabulary":
            return None
        if self._config.ingredients == "predicted":
            with self._precision():
                return self._model.predict_ingredients(views.contiguous(memory_format=torch.channels_last))
        assert provided is not None, "eval.ingredients = provided needs the conditioning classes of each image"
        known = torch.zeros(len(views), self._model.classifier.out_channels, device=self._device)
        for row, ids in zip(known, provided, strict=True):
            row[[BACKGROUND, *ids]] = 1
        return known

    def _forward(self, views: torch.Tensor, conditioning: torch.Tensor | None) -> torch.Tensor:
        """Returns (B, K, h, w) float32."""
        views = views.contiguous(memory_format=torch.channels_last)
        with self._precision():
            if conditioning is None or self._model.fusion is None:  # without fusion they only restrict the scores
                return self._model(views).logits.float()
            return self._model(views, ingredients=conditioning).logits.float()

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None)
