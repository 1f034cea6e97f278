"""Scores of a segmentation: pixels are counted as integers, counts are added up, and divided once at the end.

A confusion matrix is (K, K) int64, rows truth, columns prediction. Matrices of images, batches and workers merge by
addition, so a score does not depend on how the images were distributed. Means of per-image or per-worker IoU are
never taken.

    matrix = sum(confusion(truth, prediction, 104, 255) for truth, prediction in pairs)
    print(scores(matrix, names).miou)

Shape letters: H, W image; K class ids, 0 = background.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.classes import BACKGROUND
from foodseg.errors import UserError


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int, ignore_id: int) -> np.ndarray:
    """Counts the pixels of one image by (true id, predicted id).

    Args:
        truth: (H, W) integers: ids in [0, classes) or `ignore_id`. Pixels with `ignore_id` are not counted.
        prediction: (H, W) integers: ids in [0, classes). `ignore_id` is accepted only where truth is ignored as well.
        classes: K.
        ignore_id: the value in `truth` that is never scored.

    Returns:
        (K, K) int64, rows truth, columns prediction; its sum is the number of pixels that are not ignored.

    Raises:
        UserError: the shapes differ, a mask does not hold integers, or holds any other id outside [0, classes).
    """
    if truth.shape != prediction.shape:
        raise UserError(f"truth and prediction must have the same shape, found {truth.shape} and {prediction.shape}")
    counted = truth != ignore_id
    _refuse_strange_ids("truth", truth, counted, classes)
    _refuse_strange_ids("prediction", prediction, counted | (prediction != ignore_id), classes)
    # uint8 and uint16 ids would overflow in the product below.
    cells = truth[counted].astype(np.int64) * classes + prediction[counted].astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64, copy=False)


def _refuse_strange_ids(what: str, mask: np.ndarray, checked: np.ndarray, classes: int) -> None:
    """Raises UserError unless all `mask` pixels where `checked` ((H, W) bool) are ids in [0, classes)."""
    if not np.issubdtype(mask.dtype, np.integer):
        raise UserError(f"the {what} must hold integer class ids, found dtype {mask.dtype}")
    strange = mask[checked & ((mask < 0) | (mask >= classes))]
    if strange.size:
        raise UserError(f"the {what} holds id {int(strange.flat[0])}, valid ids are 0 to {classes - 1}")


@dataclass(frozen=True)
class ClassScore:
    """One class. `iou` and `acc` (recall) are in [0, 1], None when the class has no truth pixels."""

    id: int
    name: str
    iou: float | None
    acc: float | None
    truth_pixels: int
    predicted_pixels: int


@dataclass(frozen=True)
class SubsetScore:
    """Mean IoU over the subset's ids and background, as far as they have truth pixels: `ids` of them, None if 0."""

    miou: float | None
    ids: int


@dataclass(frozen=True)
class Scores:
    """The scores of one confusion matrix, each in [0, 1].

    miou: mean IoU over the ids with truth pixels, background included.
    miou_foreground: the same without background; None when only background has truth pixels.
    miou_union: mean IoU over the ids with truth or predicted pixels: falsely predicted absent ids count 0.
    macc: mean recall over the ids with truth pixels.
    aacc: share of the counted pixels that are right.
    classes: all K classes in the order of their ids.
    subsets: by name, the mean IoU over the subset's ids and background.
    untrained: how many ids with truth pixels never occurred in training; None when that is not known. Their IoU is 0.
    """

    miou: float
    miou_foreground: float | None
    miou_union: float
    macc: float
    aacc: float
    classes: tuple[ClassScore, ...]
    subsets: Mapping[str, SubsetScore]
    untrained: int | None


def scores(
    matrix: np.ndarray,
    names: Sequence[str],
    *,
    subsets: Mapping[str, Sequence[int]] | None = None,
    trained_ids: Collection[int] | None = None,
) -> Scores:
    """Divides counts into scores.

    Args:
        matrix: (K, K) integers, rows truth, columns prediction, summed over all images.
        names: K class names.
        subsets: named lists of ids to average over; id 0 is always added.
        trained_ids: the ids that occurred in training, 0 among them; None = not known. Other ids count with IoU 0 even
            where some pixel happened to be right; recall, `macc` and `aacc` stay as counted.

    Raises:
        UserError: `matrix` is not K x K, a subset names an id outside [0, K), or there is no truth pixel at all.
    """
    count = len(names)
    if matrix.shape != (count, count):
        raise UserError(f"{count} class names need a {count} x {count} confusion matrix, found {matrix.shape}")
    hits, truth, predicted = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    total = int(truth.sum())
    if total == 0:
        raise UserError("nothing to score: no image has a labelled pixel (every truth pixel is the ignore id)")

    present = truth > 0
    ious, recalls = class_iou(hits, truth, predicted), hits / np.maximum(truth, 1)
    untrained = None
    if trained_ids is not None:
        unseen = present & ~np.isin(np.arange(count), list(trained_ids))
        ious[unseen] = 0.0
        untrained = int(unseen.sum())
    foreground = present.copy()
    foreground[BACKGROUND] = False
    return Scores(
        miou=float(ious[present].mean()),
        miou_foreground=float(ious[foreground].mean()) if foreground.any() else None,
        # The IoU of an id that is predicted but absent is 0 / predicted = 0 already.
        miou_union=float(ious[present | (predicted > 0)].mean()),
        macc=float(recalls[present].mean()),
        aacc=int(hits.sum()) / total,
        classes=tuple(
            ClassScore(
                id=index,
                name=name,
                iou=float(ious[index]) if present[index] else None,
                acc=float(recalls[index]) if present[index] else None,
                truth_pixels=int(truth[index]),
                predicted_pixels=int(predicted[index]),
            )
            for index, name in enumerate(names)
        ),
        subsets={
            name: _subset_score(ious, present, subset_ids(name, ids, count)) for name, ids in (subsets or {}).items()
        },
        untrained=untrained,
    )


def class_iou(hits: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns TP / (truth + predicted - TP) in [0, 1], float64, shape as given; 0 where a class occurs in neither."""
    union = truth + predicted - hits
    return hits / np.maximum(union, 1)


def subset_ids(name: str, ids: Iterable[int], classes: int) -> list[int]:
    """Returns the ids of the subset `name` with background added, sorted, each once.

    Raises:
        UserError: an id is outside [0, classes).
    """
    chosen = sorted({BACKGROUND, *ids})
    strange = [index for index in chosen if not 0 <= index < classes]
    if strange:
        raise UserError(f"subset {name!r} names id {strange[0]}, valid ids are 0 to {classes - 1}")
    return chosen


def _subset_score(ious: np.ndarray, present: np.ndarray, ids: list[int]) -> SubsetScore:
    used = [index for index in ids if present[index]]
    return SubsetScore(miou=float(ious[used].mean()) if used else None, ids=len(used))
