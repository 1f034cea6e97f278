"""The protocol for names without training images: classes held out of training, five disjoint splits of them.

A class needs 5 images to be held out. The pixels of held-out classes are not known in training, never background, and
an image with nothing else on it is not trained on. It is scored on all images that hold a held-out class, at 448
pixels, from tokens that are computed once. Test images are not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from experiments.foodmix import prepared_foodmix, vit_weights
from experiments.item_queue import Bench
from experiments.variants import VIT
from foodseg.classes import BACKGROUND
from foodseg.config.vit import IMAGENET_MEAN, IMAGENET_STD, ViTConfig
from foodseg.data.image_io import decode_image, decode_mask, fit_longest, resize_image, resize_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.metrics.confusion import confusion
from foodseg.models.backbones.vit import STRIDE, TokenEncoder
from foodseg.models.open_vocabulary import cell_ids, token_logits
from foodseg.models.text.projection import Moments, Projection
from foodseg.predict.image_logits import ImageLogits

SIDE = 448  # pixels of the longer side
SPLITS = 5
FEWEST = 5  # images of a class that is held out


@dataclass(frozen=True)
class Image:
    """A training image, which is at `row` of train and val.

    tokens: (C, h, w) float16. cells: (h, w) int64, the class of each token, -1 = none. mask: (H, W) uint8, at the size
    that the tokens were made at.
    """

    tokens: torch.Tensor
    cells: torch.Tensor
    mask: np.ndarray
    source: str
    row: int

    @property
    def classes(self) -> set[int]:
        """Ids with pixels, without background."""
        return set(np.unique(self.mask).tolist()) - {BACKGROUND}


def read_images(bench: Bench) -> tuple[list[Image], tuple[str, ...], int]:
    """Returns the images of train and val, the names of all classes, and the ignore id; tokens are computed once."""
    data = str(prepared_foodmix(bench))
    manifest = read_manifest(data)
    ignore = manifest.class_table.ignore_id
    rows = RowReader(data, manifest, ["train", "val"]).columns(["image", "mask", "source"]).to_pylist()
    kept = bench.work / f"tokens-{SIDE}.pt"
    if not kept.exists():
        _compute_tokens(bench, [row["image"] for row in rows], kept)
    images = []
    for row, tokens in zip(rows, torch.load(kept), strict=True):
        mask = decode_mask(row["mask"])
        mask = resize_mask(mask, *fit_longest(*mask.shape, SIDE))
        cells = cell_ids(torch.from_numpy(mask).long()[None], tokens.shape[1:], len(manifest.classes), ignore)[0]
        images.append(Image(tokens, cells, mask, row["source"], len(images)))
    return images, manifest.class_table.names, ignore


@torch.no_grad()
def _compute_tokens(bench: Bench, files: Sequence[bytes], kept: Path) -> None:
    encoder = TokenEncoder(VIT, ViTConfig(), str(vit_weights(bench))).eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    found = []
    for file in files:
        image = decode_image(file)
        pixels = torch.from_numpy(resize_image(image, *fit_longest(*image.shape[:2], SIDE)))
        found.append(encoder((pixels.permute(2, 0, 1)[None].float() / 255 - mean) / std)[0].half())
    torch.save(found, kept.with_suffix(".tmp"))
    kept.with_suffix(".tmp").replace(kept)


def splits_of(images: Sequence[Image]) -> list[list[int]]:
    """Returns the classes of each split: neighbours in the order (source with most of its images, id) are apart."""
    by_source: dict[int, dict[str, int]] = {}
    for image in images:
        for own in image.classes - {255}:
            by_source.setdefault(own, {}).setdefault(image.source, 0)
            by_source[own][image.source] += 1
    frequent = {own: sources for own, sources in by_source.items() if sum(sources.values()) >= FEWEST}
    order = sorted(frequent, key=lambda own: (max(frequent[own], key=lambda name: (frequent[own][name], name)), own))
    return [order[index::SPLITS] for index in range(SPLITS)]


def moments_without(images: Sequence[Image], held_out: Sequence[int], classes: int) -> Moments:
    """Returns the sums over the training images where some classes are not known."""
    hidden = set(held_out)
    moments = Moments.empty(classes, len(images[0].tokens))
    for image in images:
        if image.classes - {255} - hidden:
            cells = image.cells.flatten()
            unknown = torch.isin(cells, torch.tensor(sorted(hidden)))
            moments.add(image.tokens.flatten(1).T.float(), torch.where(unknown, -1, cells))
    return moments


def counted(
    images: Sequence[Image],
    projection: Projection,
    directions: torch.Tensor,
    ids: Sequence[int],
    ignore: int,
    offsets: Mapping[float, torch.Tensor] | None = None,
    *,
    whole_cells: bool = False,
) -> dict[float, np.ndarray]:
    """Returns by offset the (n + 1, n + 1) confusion matrix of background and some names, over the images given.

    Args:
        directions: (n, C) of the names. ids: of each name the class; pixels of other classes do not count.
        offsets: by a number the (n,) that is added to the cosines; None = nothing, at 0.
    """
    offsets = {0.0: torch.zeros(len(ids))} if offsets is None else offsets
    index_of = np.full(256, ignore, np.uint8)
    index_of[[BACKGROUND, *ids]] = np.arange(len(ids) + 1)
    found = {key: np.zeros((len(ids) + 1, len(ids) + 1), np.int64) for key in offsets}
    for image in images:
        truth = index_of[image.mask]
        for key, added in offsets.items():
            predicted = predicted_ids(image, projection, directions, added, whole_cells=whole_cells)
            found[key] += confusion(truth, predicted, len(ids) + 1, ignore)
    return found


def predicted_ids(
    image: Image,
    projection: Projection,
    directions: torch.Tensor,
    offsets: torch.Tensor | None = None,
    *,
    whole_cells: bool = False,
) -> np.ndarray:
    """Returns (H, W): 0 = background, i the i-th of `directions`.

    whole_cells: the pixels of a cell have one id, which is much faster with many names than logits that are enlarged.
    """
    added = torch.zeros(len(directions)) if offsets is None else offsets
    logits = token_logits(image.tokens[None], projection, directions, added)[0]
    if whole_cells:
        cells = logits.argmax(0).numpy().astype(np.uint8).repeat(STRIDE, 0).repeat(STRIDE, 1)
        return cells[: image.mask.shape[0], : image.mask.shape[1]]
    return ImageLogits(logits, STRIDE, image.mask.shape, *image.mask.shape).ids()


def read_pixels(bench: Bench, image: Image) -> np.ndarray:
    """Returns (H, W, 3) uint8 RGB at the size of its mask."""
    data = str(prepared_foodmix(bench))
    reader = RowReader(data, read_manifest(data), ["train", "val"])
    return resize_image(decode_image(reader.columns(["image"])["image"][image.row].as_py()), *image.mask.shape)
