"""Looks at one record of a source data set and says what it holds, or why it is refused."""

from dataclasses import dataclass

import cv2
import numpy as np

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.data.record import Record
from foodseg.data.sample import decode_image
from foodseg.errors import UserError

THUMBNAIL = 16  # side in pixels of the thumbnail that near-duplicates are found by


@dataclass(frozen=True)
class RecordFacts:
    """A record that passed.

    Attributes:
        size: bytes of the picture.
        height, width: pixels, upright.
        class_pixels: (K,) int64 pixels per id; all 0 for an unlabelled picture.
        thumbnail: (THUMBNAIL x THUMBNAIL x 3,) float32, zero mean, unit length (all 0 for a picture of one colour).
    """

    record: Record
    size: int
    height: int
    width: int
    class_pixels: np.ndarray
    thumbnail: np.ndarray


@dataclass(frozen=True)
class Refusal:
    """A record that is not taken, with one sentence why."""

    record: Record
    reason: str


def audit_record(record: Record, classes: ClassTable) -> RecordFacts | Refusal:
    """Reads picture and mask in full and checks them against each other and the label space.

    Raises:
        RetryLater: the storage does not answer (this is no fault of the record).
    """
    try:
        data = record.image.read()
        image = decode_image(data, strict=True)
        height, width = image.shape[:2]
        if record.mask is None:
            counts = np.zeros(len(classes), np.int64)
        else:
            counts = _class_pixels(record.mask.read(), (height, width), classes)
    except UserError as refusal:
        return Refusal(record, str(refusal))
    return RecordFacts(record, len(data), height, width, counts, _thumbnail(image))


def _class_pixels(mask: np.ndarray, size: tuple[int, int], classes: ClassTable) -> np.ndarray:
    if mask.shape != size:
        raise UserError(f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, the picture {size[1]} x {size[0]}")
    counts = np.bincount(mask.ravel(), minlength=len(classes))
    unknown = np.flatnonzero(counts[len(classes) :]) + len(classes)
    unknown = unknown[unknown != classes.ignore_id]
    if len(unknown):
        raise UserError(
            f"the mask holds id {unknown[0]}, but ids go from 0 to {len(classes) - 1} ({classes.ignore_id} = ignore)"
        )
    if not counts[: len(classes)].any():
        raise UserError("every pixel of the mask is ignored")
    return counts[: len(classes)].astype(np.int64)


def listed_ingredients(class_pixels: np.ndarray) -> list[int]:
    """Returns the foreground ids with at least one pixel."""
    return [int(index) for index in np.flatnonzero(class_pixels) if index != BACKGROUND]


def _thumbnail(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > 0 else small
