"""CLIP (Radford et al., 2021): how well do any names fit an image, or regions of it? Both towers are open_clip's.

    clip = load_clip("ViT-B-16", "laion2b_s34b_b88k", pick_device())
    clip.scores(image, ["a fried egg", "tofu", "rice"])          # one score a name, their sum is 1
    clip.mask_scores(image, masks, ["a fried egg", "tofu"])      # the same for each region

Shape letters: H, W of an image; n names; m regions; D width of an embedding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from PIL import Image
from torch.nn.functional import normalize

from foodseg.errors import UserError
from foodseg.models.clip.towers import find_clip, load_clip_towers

# the embedding of a name is the mean over these
PROMPTS = ("a photo of {}.", "a photo of {}, a type of food.", "a close-up photo of {}.", "a plate with {}.")
BATCH = 16  # regions, or sentences, in one forward pass
MARGIN = 0.1  # around a region, as a share of its longer side


class ClipModel:
    """Scores names with one pair of towers; not safe to call from several threads at once."""

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image.Image], torch.Tensor],
        tokenizer: Callable[[list[str]], torch.Tensor],
        device: torch.device,
        cache_names: int,
        prompts: Sequence[str] = PROMPTS,
    ) -> None:
        """Takes what open_clip gives: a model, its transform for images, its tokenizer.

        cache_names: how many text embeddings are kept for the next call (2 KB each at 512 numbers).
        prompts: sentences with {} for the name.
        """
        self._model = model.eval().to(device)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._prompts = prompts
        self.device = device
        self._fill = tuple(round(255 * channel) for channel in model.visual.image_mean)
        self._embeddings: LRUCache[str, torch.Tensor] = LRUCache(cache_names)

    def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns n scores in [0, 1] of an image (H, W, 3) uint8 RGB: CLIP's softmax, so they say which of *these*.

        The image tower sees what CLIP was trained on: the shorter side at its size, and of that the middle square.

        Raises:
            UserError: there is no name.
        """
        return self._compare([Image.fromarray(image)], names)[0]

    def mask_scores(self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str]) -> list[list[float]]:
        """Returns m x n scores as `scores` of regions (m x (H, W) bool).

        A region is shown as a square around it, in which all that does not belong to it has CLIP's mean colour.

        Raises:
            UserError: a mask is empty, or there is no name.
        """
        return self._compare((self._region(image, mask) for mask in masks), names)

    @property
    def visual(self) -> torch.nn.Module:
        """The image tower."""
        tower: torch.nn.Module = self._model.visual
        return tower

    @torch.inference_mode()
    def text_embeddings(self, names: Sequence[str]) -> torch.Tensor:
        """Returns (n, D) float32 embeddings of names, of length 1: means over the prompts.

        Those of recent names come from the cache.

        Raises:
            UserError: there is no name.
        """
        if not names:
            raise UserError("there is no name to score: give at least one")
        # apart from the cache, which may be smaller than this call
        found = {name: self._embeddings[name] for name in names if name in self._embeddings}
        missing = [name for name in dict.fromkeys(names) if name not in found]
        sentences = [prompt.format(name) for name in missing for prompt in self._prompts]
        parts = [
            normalize(self._model.encode_text(self._tokenizer(part).to(self.device)).float(), dim=1)
            for part in _batches(sentences, BATCH)
        ]
        if parts:
            means = torch.cat(parts).unflatten(0, (len(missing), len(self._prompts))).mean(1)
            new = dict(zip(missing, normalize(means, dim=1), strict=True))
            self._embeddings.update(new)
            found |= new
        return torch.stack([found[name] for name in names])

    @torch.inference_mode()
    def _compare(self, images: Iterable[Image.Image], names: Sequence[str]) -> list[list[float]]:
        words = self.text_embeddings(names)
        scale = self._model.logit_scale.exp()
        rows: list[list[float]] = []
        for part in _batches((self._preprocess(image) for image in images), BATCH):
            seen = normalize(self._model.encode_image(torch.stack(part).to(self.device)).float(), dim=1)
            rows += (scale * seen @ words.T).softmax(1).tolist()
        return rows

    def _region(self, image: np.ndarray, mask: np.ndarray) -> Image.Image:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            raise UserError("a mask without a pixel has no score: leave it out")
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        height, width = bottom - top, right - left
        side = round(max(height, width) * (1 + 2 * MARGIN))
        square = np.empty((side, side, 3), np.uint8)
        square[:] = self._fill
        y, x = (side - height) // 2, (side - width) // 2
        inside = mask[top:bottom, left:right]
        square[y : y + height, x : x + width][inside] = image[top:bottom, left:right][inside]
        return Image.fromarray(square)


def load_clip(
    model: str,
    weights: str | None,
    device: torch.device,
    *,
    quick_gelu: bool | None = None,
    cache_names: int = 4096,
    prompts: Sequence[str] = PROMPTS,
) -> ClipModel:
    """Builds both towers; arguments and errors as for `models.clip.towers.find_clip` and `ClipModel`."""
    towers = load_clip_towers(find_clip(model, weights, quick_gelu, "clip"), device)
    return ClipModel(*towers, device, cache_names, prompts)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while part := list(islice(source, size)):
        yield part
