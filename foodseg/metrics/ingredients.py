"""Image-level scores: which ingredients are on an image, and what share of the food each of them is.

Computed from the per-image counts, without predicting again:

    result = ingredient_scores(images, classes.names)
    print(result.micro.f1, result.share_error)

An ingredient is on an image when it holds at least MIN_SHARE of the image's labelled pixels, in the truth or in the
prediction: a stray pixel does not make an ingredient. Background is not an ingredient. Ignored pixels are not counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.classes import BACKGROUND
from foodseg.metrics.per_image import ImageCounts

MIN_SHARE = 0.001  # of the labelled pixels of an image


@dataclass(frozen=True)
class Detection:
    """Precision, recall and F1 in [0, 1]; None where there is nothing to divide by."""

    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class IngredientScore:
    """One ingredient over all images.

    truth, predicted, right: images that hold it in the truth, in the prediction, in both.
    detection: from these three numbers.
    share_error: mean of |predicted share - true share| of the food, in [0, 1], over the images that hold it in the
        truth or in the prediction; None when no image does.
    """

    id: int
    name: str
    truth: int
    predicted: int
    right: int
    detection: Detection
    share_error: float | None


@dataclass(frozen=True)
class IngredientScores:
    """All ingredients.

    micro: every (image, ingredient) counts alike: numbers are added up and divided once.
    per_image: every image counts alike: the mean over the `images` with an ingredient in truth or prediction
        ("samples" average of multi-label scores; an image where nothing was predicted has precision 0).
    share_error: mean of |predicted share - true share| of the food, in [0, 1], over the `pairs` (image, ingredient in
        truth or prediction); None when there is none.
    classes: all ids but background, in their order.
    """

    min_share: float
    micro: Detection
    per_image: Detection
    images: int
    share_error: float | None
    pairs: int
    classes: tuple[IngredientScore, ...]


def ingredient_scores(images: Iterable[ImageCounts], names: Sequence[str]) -> IngredientScores:
    """Scores the ingredients that the images hold.

    Args:
        images: counts with ids in [0, K).
        names: K class names.
    """
    found = np.zeros((len(names), 3), np.int64)  # images that hold the id: truth, prediction, both
    errors, pairs = np.zeros(len(names)), np.zeros(len(names), np.int64)
    per_image = []
    for image in images:
        pixels = class_pixels(image, len(names))
        present = pixels >= np.maximum(1, MIN_SHARE * pixels[0].sum())
        present[:, BACKGROUND] = False
        both, either = present.all(0), present.any(0)
        found += np.stack([*present, both], axis=1)
        if either.any():
            per_image.append((present[0].sum(), present[1].sum(), both.sum()))
        true_share, predicted_share = food_share(pixels)
        errors += np.abs(predicted_share - true_share) * either
        pairs += either
    used = pairs > 0
    return IngredientScores(
        min_share=MIN_SHARE,
        micro=_detection(*found.sum(0)),
        per_image=_mean_detection(np.array(per_image)),
        images=len(per_image),
        share_error=float(errors.sum() / pairs.sum()) if used.any() else None,
        pairs=int(pairs.sum()),
        classes=tuple(
            IngredientScore(
                id=index,
                name=names[index],
                truth=int(found[index, 0]),
                predicted=int(found[index, 1]),
                right=int(found[index, 2]),
                detection=_detection(*found[index]),
                share_error=float(errors[index] / pairs[index]) if used[index] else None,
            )
            for index in range(len(names))
            if index != BACKGROUND
        ),
    )


def class_pixels(image: ImageCounts, classes: int) -> np.ndarray:
    """Returns (2, K) int64 pixels per id in the truth and in the prediction, labelled pixels only."""
    pixels = np.zeros((2, classes), np.int64)
    np.add.at(pixels[0], image.truth, image.count)
    np.add.at(pixels[1], image.prediction, image.count)
    return pixels


def food_share(pixels: np.ndarray) -> np.ndarray:
    """Turns (2, K) pixels per id into shares of the food in [0, 1]; 0 for background, and all 0 where no food is."""
    food = pixels.copy()
    food[:, BACKGROUND] = 0
    return food / np.maximum(1, food.sum(1, keepdims=True))


def _detection(truth: int, predicted: int, right: int) -> Detection:
    return Detection(
        precision=float(right / predicted) if predicted else None,
        recall=float(right / truth) if truth else None,
        f1=float(2 * right / (truth + predicted)) if truth + predicted else None,
    )


def _mean_detection(counts: np.ndarray) -> Detection:
    """Averages over (n, 3) images: how many ingredients are in the truth, in the prediction, in both."""
    if not len(counts):
        return Detection(None, None, None)
    truth, predicted, right = counts.T
    return Detection(
        precision=float(np.mean(right / np.maximum(1, predicted))),
        recall=float(np.mean(right / np.maximum(1, truth))),
        f1=float(np.mean(2 * right / (truth + predicted))),
    )
