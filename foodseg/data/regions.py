"""The regions of an image: connected parts of its mask, or given masks with the class that most of their pixels have.

    regions = true_regions(mask, classes, least_share=0.001)
    regions = labelled_masks(kept.masks("lunch__0001"), mask, classes, None, least_share=0.001)

Shape letters: H, W of the image.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from foodseg.classes import BACKGROUND, ClassTable

MAJORITY = 0.5  # share of a given mask's pixels that have its class; as FoodSAM's vote


class Box(NamedTuple):
    """Rows top..bottom-1 and columns left..right-1."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, eq=False)
class Region:
    """One region. label: its true class. mask: (H, W) bool. box: the smallest that holds it."""

    label: int
    mask: np.ndarray
    box: Box


def box_of(mask: np.ndarray) -> Box:
    """Returns the smallest box that holds the pixels of a mask (H, W) bool, which has some."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def true_regions(mask: np.ndarray, classes: ClassTable, *, least_share: float) -> list[Region]:
    """Returns the connected parts (8 neighbours) of each ingredient, by class, the largest first.

    Background is not a region.

    Args:
        mask: (H, W) ids. least_share: parts with a smaller share of the image are left out; one pixel is too small
            whatever it is.
    """
    found = []
    least = max(2, least_share * mask.size)
    for label in np.unique(mask).tolist():
        if label == BACKGROUND or label >= len(classes):
            continue
        own = (mask == label).view(np.uint8)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        order = sorted(range(1, count), key=lambda part: (-stats[part, cv2.CC_STAT_AREA], part))
        for part in order:
            left, top, width, height, area = (int(number) for number in stats[part])
            if area >= least:
                found.append(Region(label, parts == part, Box(top, left, top + height, left + width)))
    return found


def labelled_masks(
    masks: Sequence[np.ndarray],
    truth: np.ndarray,
    classes: ClassTable,
    annotated: Collection[int] | None,
    *,
    least_share: float,
) -> list[Region]:
    """Returns the masks that have a true class: that of at least MAJORITY of all their pixels; it may be background.

    Args:
        masks: (h, w) bool, at any scale of the image; they may overlap. truth: (H, W) ids.
        annotated: the ids that the image's source annotates, None = all: in an image of another source background
            may be anything, and is not a class of a region.
    """
    found = []
    for mask in masks:
        whole = resize_mask(mask, truth.shape)
        area = int(np.count_nonzero(whole))
        if area < max(2, least_share * truth.size):
            continue
        counts = np.bincount(truth[whole], minlength=len(classes))[: len(classes)]
        label = int(counts.argmax())
        if counts[label] < MAJORITY * area or (label == BACKGROUND and annotated is not None):
            continue
        found.append(Region(label, whole, box_of(whole)))
    return found


def resize_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns a mask (h, w) bool at another size (H, W): of each pixel the one below its centre."""
    if mask.shape == size:
        return mask
    rows, columns = (
        ((np.arange(side) + 0.5) * own / side).astype(np.int64) for side, own in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
