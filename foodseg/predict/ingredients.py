"""What a label map says of each ingredient: pixels, shares, mean confidence.

    labelled_ingredients(ids, confidence, classes)[0].name  # "white rice", the largest

Shape letters: H, W of the label map.
"""

from dataclasses import dataclass

import numpy as np

from foodseg.classes import ClassTable
from foodseg.report.overlay import food_shares


@dataclass(frozen=True)
class LabelledIngredient:
    """An ingredient of an image: shares of the food and of the image, mean confidence of its pixels, in [0, 1]."""

    id: int
    name: str
    pixels: int
    share_of_food: float
    share_of_image: float
    confidence: float


def labelled_ingredients(
    ids: np.ndarray, confidence: np.ndarray, classes: ClassTable
) -> tuple[LabelledIngredient, ...]:
    """Returns the ingredients of a label map, the largest first.

    Args:
        ids: (H, W) ids. confidence: (H, W) uint16, 65535 = certain.
    """
    confidences = mean_confidences(ids, confidence, len(classes))
    return tuple(
        LabelledIngredient(
            id=index,
            name=classes.names[index],
            pixels=pixels,
            share_of_food=share,
            share_of_image=pixels / ids.size,
            confidence=float(confidences[index]),
        )
        for index, pixels, share in food_shares(ids, classes)
    )


def mean_confidences(ids: np.ndarray, confidence: np.ndarray, classes: int) -> np.ndarray:
    """Returns (classes,) float64 mean confidence in [0, 1] of the pixels of each id, 0 for ids without pixels.

    Args:
        ids: (H, W) ids. confidence: (H, W) uint16, 65535 = certain.
    """
    sums, pixels = np.zeros(classes), np.zeros(classes, np.int64)
    for row, confident in zip(ids, confidence, strict=True):  # row by row: bincount takes 8 bytes a pixel
        sums += np.bincount(row, weights=confident, minlength=classes)
        pixels += np.bincount(row, minlength=classes)
    return sums / (np.iinfo(np.uint16).max * np.maximum(1, pixels))
