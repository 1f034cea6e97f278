"""Boundary IoU: the quality of outlines, while IoU mostly measures the inside of large regions.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021. The boundary region of
a class is its mask without what is left of it after d erosions by a 3 x 3 square; d is 2 % of the image's diagonal,
and the image's border counts as an outline. As for `miou`, counts are added up over images and divided once.

    counts = merge_boundary(images, 104)
    print(boundary_scores(counts).miou)

Shape letters: H, W image; K class ids.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from foodseg.classes import BACKGROUND
from foodseg.errors import UserError
from foodseg.metrics.confusion import SubsetScore, class_iou, subset_ids
from foodseg.metrics.per_image import ImageCounts

DIAGONAL_SHARE = 0.02


@dataclass(frozen=True)
class BoundaryScores:
    """The scores of boundary counts, each in [0, 1].

    miou: mean boundary IoU over the ids with truth pixels, background included (the ids that `Scores.miou` rests on: a
        region always has a boundary).
    miou_foreground: the same without background; None when only background has truth pixels.
    classes: per id the boundary IoU, None without truth pixels.
    subsets: by name, the mean over the subset's ids and background.
    """

    miou: float
    miou_foreground: float | None
    classes: tuple[float | None, ...]
    subsets: Mapping[str, SubsetScore]


def boundary_distance(height: int, width: int) -> int:
    """Returns d in pixels for an image of this size, at least 1."""
    return max(1, round(DIAGONAL_SHARE * math.hypot(height, width)))


def boundary_counts(truth: np.ndarray, prediction: np.ndarray, classes: int, ignore_id: int) -> np.ndarray:
    """Counts the boundary pixels of one image per id.

    Ignored pixels are taken out of both masks before their outlines are sought, so that a prediction that is right
    wherever the truth is known scores 1.

    Args:
        truth: (H, W) unsigned integers: ids in [0, classes) or `ignore_id`.
        prediction: (H, W) unsigned integers: ids in [0, classes), anything where truth is ignored.

    Returns:
        (n, 4) int64, a row per id with a boundary pixel in either mask, sorted: the id, the pixels in both boundary
        regions, in the truth's, in the prediction's.
    """
    dtype = np.uint8 if ignore_id <= 255 else np.uint16
    counted = truth != ignore_id
    truth = truth.astype(dtype, copy=False)
    prediction = np.where(counted, prediction.astype(dtype, copy=False), dtype(ignore_id))
    distance = boundary_distance(*truth.shape)
    in_truth, in_prediction = (_boundary(mask, distance) & counted for mask in (truth, prediction))
    both = in_truth & in_prediction & (truth == prediction)
    columns = [
        np.bincount(mask[region], minlength=classes)
        for mask, region in ((truth, both), (truth, in_truth), (prediction, in_prediction))
    ]
    ids = np.flatnonzero(columns[1] + columns[2])
    return np.stack([ids, *(column[ids] for column in columns)], axis=1).astype(np.int64)


def _boundary(ids: np.ndarray, distance: int) -> np.ndarray:
    """Returns (H, W) bool: another id, or the image's border, lies within `distance` pixels, diagonal steps included.

    Masks of classes do not overlap, so that a pixel outlives the erosion of its own mask exactly when the square around
    it holds one id only. The least and the greatest id of that square tell, for all classes at once.
    """
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    found = cv2.erode(ids, square) != cv2.dilate(ids, square)
    found[:distance] = found[-distance:] = True
    found[:, :distance] = found[:, -distance:] = True
    return found


def merge_boundary(images: Iterable[ImageCounts], classes: int) -> np.ndarray:
    """Adds the images' boundary counts up to (K, 3) int64: pixels in both, in the truth's, in the prediction's.

    Raises:
        UserError: an image has no boundary counts, as those of `images-ema.parquet` and `images-student.parquet`.
    """
    total = np.zeros((classes, 3), np.int64)
    for image in images:
        if image.boundary is None:
            raise UserError(f"image {image.image_id!r} has no boundary counts: only images.parquet has them")
        total[image.boundary[:, 0]] += image.boundary[:, 1:]
    return total


def boundary_scores(
    counts: np.ndarray,
    *,
    subsets: Mapping[str, Sequence[int]] | None = None,
    trained_ids: Collection[int] | None = None,
) -> BoundaryScores:
    """Divides counts into scores; `subsets` and `trained_ids` as in `scores` of `metrics/confusion.py`.

    Args:
        counts: (K, 3) integers of `merge_boundary`.

    Raises:
        UserError: there is no truth pixel at all, or a subset names an id outside [0, K).
    """
    classes = len(counts)
    both, truth, predicted = counts.T
    present = truth > 0
    if not present.any():
        raise UserError("nothing to score: no image has a labelled pixel (every truth pixel is the ignore id)")
    ious = class_iou(both, truth, predicted)
    if trained_ids is not None:
        ious[~np.isin(np.arange(classes), list(trained_ids))] = 0.0
    foreground = present.copy()
    foreground[BACKGROUND] = False
    chosen = {name: subset_ids(name, ids, classes) for name, ids in (subsets or {}).items()}
    return BoundaryScores(
        miou=float(ious[present].mean()),
        miou_foreground=float(ious[foreground].mean()) if foreground.any() else None,
        classes=tuple(float(iou) if there else None for iou, there in zip(ious, present, strict=True)),
        subsets={name: _subset_score(ious, [i for i in ids if present[i]]) for name, ids in chosen.items()},
    )


def _subset_score(ious: np.ndarray, used: list[int]) -> SubsetScore:
    return SubsetScore(miou=float(ious[used].mean()) if used else None, ids=len(used))
