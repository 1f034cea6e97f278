"""A training image from its row: decode, scale, crop, flip, pad; all drawn from the row's seed.

Shapes: H, W of the scaled image; S = augment.crop; K classes.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config.augment import AugmentConfig
from foodseg.data.image_io import decode_image, decode_mask, fit_longest, resize_image, resize_mask

LISTED_SHARE = 0.001  # smallest share of a crop's real pixels for an ingredient to be listed
PAD_VALUE = 0  # any value: the model sets padding to the mean after normalisation, by `extent`


@dataclass(frozen=True)
class Placement:
    """Where a crop was cut: from an image scaled to (height, width), at (top, left); then perhaps flipped."""

    height: int
    width: int
    top: int
    left: int
    flip: bool


@dataclass(frozen=True)
class Crop:
    """One training crop.

    Attributes:
        image: (S, S, 3) uint8 RGB; pixels outside `extent` are padding.
        mask: (S, S) uint8 or uint16 ids; padding and unlabelled pixels hold the ignore id.
        extent: (4,) int32 top, left, bottom, right of the real pixels.
        ingredients: (K,) bool, foreground ids with at least LISTED_SHARE of the real pixels.
        ingredients_known: False for an image without a mask: `ingredients` is then unknown.
        placement: where the image's own pixels come from.
    """

    image: np.ndarray
    mask: np.ndarray
    extent: np.ndarray
    ingredients: np.ndarray
    ingredients_known: bool
    placement: Placement


def make_crop(
    image: bytes, mask: bytes | None, height: int, width: int, seed: int, augment: AugmentConfig, classes: ClassTable
) -> Crop:
    """Makes the crop of one row, with the (height, width) of the row; the same seed gives the same crop."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(*augment.scale)
    flip = rng.uniform() < augment.flip
    class_aware = rng.uniform() < augment.class_aware
    scaled = fit_longest(height, width, augment.longest_side * scale)
    pixels = resize_image(decode_image(image, at_least=scaled), *scaled)
    if mask is None:
        ids = np.full(scaled, classes.ignore_id, dtype=classes.mask_dtype)
    else:
        ids = resize_mask(decode_mask(mask), *scaled).astype(classes.mask_dtype, copy=False)
    centre = _pixel_of_a_class(ids, classes, rng) if class_aware else None
    top, left = (_offset(side, augment.crop, at, rng) for side, at in zip(scaled, centre or (None, None), strict=True))
    window = np.s_[top : top + augment.crop, left : left + augment.crop]
    placement = Placement(*scaled, top, left, flip)
    return _pad(pixels[window], ids[window], mask is not None, placement, augment.crop, classes)


def _pixel_of_a_class(ids: np.ndarray, classes: ClassTable, rng: np.random.Generator) -> tuple[int, int] | None:
    """Draws one of the present ingredients uniformly, then one of its pixels uniformly; None without ingredients."""
    counts = np.bincount(ids.ravel(), minlength=len(classes))[: len(classes)]
    present = np.flatnonzero(counts)
    present = present[present != BACKGROUND]
    if not len(present):
        return None
    chosen = rng.choice(present)
    flat = np.flatnonzero(ids.ravel() == chosen)[rng.integers(counts[chosen])]
    return int(flat) // ids.shape[1], int(flat) % ids.shape[1]


def _offset(side: int, crop: int, centre: int | None, rng: np.random.Generator) -> int:
    slack = max(0, side - crop)
    if centre is None:
        return int(rng.integers(slack + 1))
    return min(max(0, centre - crop // 2), slack)


def _pad(
    pixels: np.ndarray, ids: np.ndarray, labelled: bool, placement: Placement, side: int, classes: ClassTable
) -> Crop:
    if placement.flip:
        pixels, ids = pixels[:, ::-1], ids[:, ::-1]
    height, width = ids.shape
    image = np.full((side, side, 3), PAD_VALUE, np.uint8)
    image[:height, :width] = pixels
    mask = np.full((side, side), classes.ignore_id, classes.mask_dtype)
    mask[:height, :width] = ids
    extent = np.array([0, 0, height, width], np.int32)
    return Crop(image, mask, extent, ingredients_of_crop(mask, extent, classes), labelled, placement)


def ingredients_of_crop(mask: np.ndarray, extent: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Returns (K,) bool: foreground ids with at least LISTED_SHARE of the real pixels, those within `extent`."""
    top, left, bottom, right = extent
    counts = np.bincount(mask[top:bottom, left:right].ravel(), minlength=len(classes))[: len(classes)]
    listed = counts >= max(1, LISTED_SHARE * (bottom - top) * (right - left))
    listed[BACKGROUND] = False
    return listed


def single_threaded_opencv() -> None:
    """Disables OpenCV's threads, which would compete with the data workers for cores; call once in each worker."""
    cv2.setNumThreads(1)
