"""CLIP (Radford et al., 2021): how well do any names fit a picture, or regions of it? Both towers are open_clip's.

    clip = load_clip("ViT-B-16", "laion2b_s34b_b88k", pick_device())
    clip.scores(image, ["a fried egg", "tofu", "rice"])          # one score a name, their sum is 1
    clip.mask_scores(image, masks, ["a fried egg", "tofu"])      # the same for each region

open_clip_torch is imported only where it is used.

Shape letters: H, W of a picture; n names; m regions; D width of an embedding.
"""

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from foodseg import storage
from foodseg.errors import UserError

# a name's vector is the mean over these
PROMPTS = ("a photo of {}.", "a photo of {}, a type of food.", "a close-up photo of {}.", "a plate with {}.")
BATCH = 16  # regions, or sentences, in one forward pass
MARGIN = 0.1  # around a region, as a share of its longer side
_CONFIG = "open_clip_config.json"


class ClipModel:
    """Scores names with one pair of towers; not safe to call from several threads at once."""

    def __init__(
        self,
        model: Any,
        preprocess: Callable[[Image.Image], torch.Tensor],
        tokenizer: Callable[[list[str]], torch.Tensor],
        device: torch.device,
        cache_names: int,
    ) -> None:
        """Takes what open_clip gives: a model, its transform for pictures, its tokenizer.

        cache_names: how many names' vectors are kept for the next call (2 KB each at 512 numbers).
        """
        self._model = model.eval().to(device)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._device = device
        self._cache_names = cache_names
        self._fill = tuple(round(255 * channel) for channel in model.visual.image_mean)
        self._vectors: OrderedDict[str, torch.Tensor] = OrderedDict()

    def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns n scores in [0, 1] of a picture (H, W, 3) uint8 RGB: CLIP's softmax, so they say which of *these*.

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

    @torch.inference_mode()
    def _compare(self, pictures: Iterable[Image.Image], names: Sequence[str]) -> list[list[float]]:
        words = self._text(names)
        scale = self._model.logit_scale.exp()
        rows: list[list[float]] = []
        for part in _batches((self._preprocess(picture) for picture in pictures), BATCH):
            seen = normalize(self._model.encode_image(torch.stack(part).to(self._device)).float(), dim=1)
            rows += (scale * seen @ words.T).softmax(1).tolist()
        return rows

    def _text(self, names: Sequence[str]) -> torch.Tensor:
        """Returns (n, D) float32 vectors of length 1; those of names seen lately come from the cache."""
        if not names:
            raise UserError("there is no name to score: give at least one")
        missing = [name for name in dict.fromkeys(names) if name not in self._vectors]
        sentences = [prompt.format(name) for name in missing for prompt in PROMPTS]
        parts = [
            normalize(self._model.encode_text(self._tokenizer(part).to(self._device)).float(), dim=1)
            for part in _batches(sentences, BATCH)
        ]
        if parts:
            means = torch.cat(parts).unflatten(0, (len(missing), len(PROMPTS))).mean(1)
            self._vectors.update(zip(missing, normalize(means, dim=1), strict=True))
        for name in names:
            self._vectors.move_to_end(name)
        vectors = torch.stack([self._vectors[name] for name in names])
        while len(self._vectors) > self._cache_names:
            self._vectors.popitem(last=False)
        return vectors

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


def load_clip(model: str, weights: str | None, device: torch.device, cache_names: int = 4096) -> ClipModel:
    """Builds both towers.

    Args:
        model: a name of `open_clip.list_models()`, such as ViT-B-16 (OpenAI's weights need the names that end in
            -quickgelu), or a folder or URI with open_clip_config.json, weights and, where it needs one, tokenizer.
        weights: of a name: one of its published tags, or a file or URI. Of a folder: None.

    Raises:
        UserError: open_clip is missing, or lacks the model or its weights.
    """
    open_clip = _open_clip()
    with tempfile.TemporaryDirectory() as folder:
        if model in open_clip.list_models():
            name, pretrained = model, _weights(open_clip, model, weights, Path(folder))
        else:
            name, pretrained = _local_model(model, weights, Path(folder)), None
        quick = bool(pretrained and (open_clip.get_pretrained_cfg(model, pretrained) or {}).get("quick_gelu"))
        try:
            towers, preprocess = open_clip.create_model_from_pretrained(
                name, pretrained, force_quick_gelu=quick, device=device
            )
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:  # the hub client, torch and safetensors raise a dozen kinds
            detail = str(error).split("\n")[0][:160]
            shown = storage.redact(model if weights is None else f"{model} with {weights}")
            raise UserError(f"open_clip cannot load {shown} ({type(error).__name__}: {detail})") from None
    return ClipModel(towers, preprocess, tokenizer, device, cache_names)


def _weights(open_clip: Any, model: str, weights: str | None, folder: Path) -> str:
    """Returns what open_clip takes as `pretrained`: a published tag as it is, a file as a local path."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights is None:
        raise UserError(f"{model} needs weights: a file or URI, or one of the published {', '.join(tags) or '(none)'}")
    if weights in tags:
        return weights
    if not storage.exists(weights):
        known = ", ".join(tags) or "none"
        raise UserError(f"{storage.redact(weights)} is no file of weights, and no published tag of {model} ({known})")
    local = folder / ("weights.safetensors" if ".safetensors" in weights else "weights.pt")
    storage.download(weights, local)
    return str(local)


def _local_model(model: str, weights: str | None, folder: Path) -> str:
    """Copies a model's folder and returns open_clip's name for it."""
    if not storage.exists(storage.join(model, _CONFIG)):
        raise UserError(
            f"open_clip has no model {storage.redact(model)!r}, and it is no folder with {_CONFIG}; "
            "open_clip.list_models() names those it has"
        )
    if weights is not None:
        raise UserError(
            f"the folder {storage.redact(model)} holds its own weights: leave out {storage.redact(weights)}"
        )
    for name in storage.list_names(model):
        storage.download(storage.join(model, name), folder / name)
    return f"local-dir:{folder}"


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise UserError("CLIP needs the package open_clip_torch: pip install open_clip_torch") from None
    return open_clip


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while part := list(islice(source, size)):
        yield part
