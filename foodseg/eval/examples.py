"""The best and the worst images of an evaluation, each with its truth."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_image, fit_longest, image_size, resize_image, resize_mask
from foodseg.data.reader import RowReader
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.scoring import LabelledRow, Labeller, labelled_rows, truth_and_labels
from foodseg.metrics.confusion import class_iou
from foodseg.metrics.ingredients import MIN_SHARE, class_pixels, food_share
from foodseg.metrics.per_image import ImageCounts
from foodseg.report.overlay import overlay

SHOWN = 6  # of each kind
NAMED = 10  # ingredients of an image
LONGEST_SIDE = 480


@dataclass(frozen=True)
class ShownShare:
    """An ingredient of an image: colour `#rrggbb`, its shares of the food in truth and prediction, in [0, 1]."""

    name: str
    colour: str
    truth: float
    predicted: float


@dataclass(frozen=True)
class Example:
    """An image with its true and its predicted ingredients drawn in, both base64 JPEG of `width` x `height` pixels.

    shares: the ingredients with the greatest share in truth or prediction. more: how many others there are.
    """

    image_id: str
    miou: float
    truth: str
    predicted: str
    width: int
    height: int
    shares: tuple[ShownShare, ...]
    more: int


def image_miou(counts: ImageCounts, classes: int) -> float | None:
    """Returns the mean IoU of one image over the ids with truth pixels on it; None when no pixel is labelled."""
    truth, predicted = class_pixels(counts, classes)
    present = truth > 0
    if not present.any():
        return None
    same = counts.truth == counts.prediction
    hits = np.bincount(counts.truth[same], weights=counts.count[same], minlength=classes)
    return float(class_iou(hits, truth, predicted)[present].mean())


def worst_and_best(
    counts_of_images: Sequence[ImageCounts], classes: int
) -> tuple[list[ImageCounts], list[ImageCounts]]:
    """Returns the SHOWN worst images, worst first, and the SHOWN best, best first; no image is in both.

    Only the worst of near-duplicates is considered: the others would show the same.
    """
    scored = [(image_miou(counts, classes), counts.image_id, counts) for counts in counts_of_images]
    all_ranked = [counts for _, _, counts in sorted(entry for entry in scored if entry[0] is not None)]
    worst_of_group = {counts.group_id: counts for counts in reversed(all_ranked)}
    ranked = [counts for counts in all_ranked if worst_of_group[counts.group_id] is counts]
    count = min(SHOWN, (len(ranked) + 1) // 2)
    return ranked[:count], ranked[count:][-SHOWN:][::-1]


def draw_examples(
    reader: RowReader, counts_of_images: Sequence[ImageCounts], labeller: Labeller, space: CommonSpace
) -> tuple[list[Example], list[Example]]:
    """Draws the worst and the best of the images, which are rows of `reader`; only these are labelled once more."""
    row_of = {image_id: row for row, image_id in enumerate(reader.column("image_id").to_pylist())}
    worst, best = (
        [
            draw_example(row, counts, labeller, space)
            for counts in chosen
            for row in labelled_rows(reader, [row_of[counts.image_id]])
        ]
        for chosen in worst_and_best(counts_of_images, len(space.classes))
    )
    return worst, best


def draw_example(row: LabelledRow, counts: ImageCounts, labeller: Labeller, space: CommonSpace) -> Example:
    """Labels a row of the data set once more and draws it.

    Args:
        counts: of the image, in ids of `space.classes`.
    """
    truth, found = truth_and_labels(row, labeller, space)
    classes = space.classes
    height, width = image_size(row.image)
    if max(height, width) > LONGEST_SIDE:
        height, width = fit_longest(height, width, LONGEST_SIDE)
    image = resize_image(decode_image(row.image, at_least=(height, width)), height, width)
    miou = image_miou(counts, len(classes))
    assert miou is not None
    drawn = (overlay(image, resize_mask(mask, height, width), classes) for mask in (truth, found.ids))
    # without the legend at the right or below: the page writes its own, in letters that scale with the page
    shown, predicted = (_jpeg(whole[:height, :width]) for whole in drawn)
    return Example(row.image_id, miou, shown, predicted, width, height, *_shares(counts, classes))


def colours(classes: ClassTable) -> list[str]:
    """Returns `#rrggbb` per id, as the overlays use them."""
    return ["#" + bytes(colour).hex() for colour in classes.palette()]


def _shares(counts: ImageCounts, classes: ClassTable) -> tuple[tuple[ShownShare, ...], int]:
    """Returns the NAMED ingredients with the most food in truth or prediction, and how many others there are.

    Those with less than MIN_SHARE in both are not counted.
    """
    shares = food_share(class_pixels(counts, len(classes)))
    palette = colours(classes)
    most = np.argsort(-shares.max(0), kind="stable")
    present = [int(index) for index in most if shares[:, index].max() >= MIN_SHARE]
    named = sorted(present[:NAMED], key=lambda i: (-shares[0, i], -shares[1, i], i))
    entries = (ShownShare(classes.names[i], palette[i], float(shares[0, i]), float(shares[1, i])) for i in named)
    return tuple(entries), len(present) - len(named)


def _jpeg(image: np.ndarray) -> str:
    rows = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", rows, [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert ok
    return base64.b64encode(data.tobytes()).decode()
