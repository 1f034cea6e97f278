"""Checks one record of a source data set: what it holds, what is notable about it, and why it may be refused."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice

import cv2
import numpy as np

from foodseg.classes import BACKGROUND, IGNORE_8BIT, IGNORE_16BIT, ClassTable
from foodseg.data.image_io import SWAPS_SIDES, BadFile, ImageKind, decode_image, image_kind, upright
from foodseg.data.stored_mask import encode_stored_mask
from foodseg.data.unread import LayeredMask
from foodseg.errors import MissingFile, RetryLater, UserError
from foodseg.prepare.checked import CheckedImage, CheckedMask, smaller_image, smaller_mask
from foodseg.prepare.findings import FINDINGS, Finding
from foodseg.prepare.mask_orientation import find_mask_orientation, stored_evidence
from foodseg.prepare.record import Record

THUMBNAIL = 16  # side in pixels of the thumbnail for finding near-duplicates
AUDIT_BATCH = 16  # records in one task: large enough to hide the task's start-up, small enough for frequent progress
MAX_LOCAL_BATCH = 1_000  # of one row group of a Parquet file, which is fetched as a whole
_BAND_PIXELS = 1 << 20
_GREY = 32  # a larger id is likelier a shade of grey
SIZE_EVIDENCE = 1.0  # of a mask that has the size of the image in one orientation only


@dataclass(frozen=True)
class RecordFacts:
    """A record that passed: all that later stages need.

    Attributes:
        record: with a `CheckedImage` and a `CheckedMask`.
        findings: none of them refuses the record.
        size: bytes of image and mask in a shard.
        height, width: pixels, upright, in the shard.
        mask_turn: EXIF orientation that `image_io.upright` turns the mask by to fit the image; 1 = it fits.
        class_pixels: (K,) int32 pixels per id in the shard, image_io.MAX_PIXELS at most; all 0 for an unlabelled image.
        thumbnail: (THUMBNAIL x THUMBNAIL x 3,) uint8; (0,) where only facts are wanted.
        digest: SHA-256 of the image's file as it came.
        ignored_pixels: pixels of the mask with the ignore id.
        orientation: EXIF orientation of the image, 1 to 8.
        stored_evidence: see `mask_orientation.stored_evidence`; None without EXIF orientation or without mask.
        ignored_is_food: the ignore id in the mask file means the only ingredient (`ambiguities.resolve_ignored`).
    """

    record: Record
    findings: tuple[Finding, ...]
    size: int
    height: int
    width: int
    mask_turn: int
    class_pixels: np.ndarray
    thumbnail: np.ndarray
    digest: bytes
    ignored_pixels: int = 0
    orientation: int = 1
    stored_evidence: float | None = None
    ignored_is_food: bool = False


@dataclass(frozen=True)
class Refusal:
    """A refused record. At least one of `findings` refuses it.

    `facts`: the record as it would pass if its ignored pixels were an ingredient; None where anything else is wrong.
    """

    record: Record
    findings: tuple[Finding, ...]
    facts: RecordFacts | None = None

    @property
    def reason(self) -> str:
        """Why the record is refused, in one line."""
        return "; ".join(finding.detail for finding in self.findings if finding.refuses)


def audit_batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Splits records, in order, into batches for one task each; those of one row group stay together."""
    batch: list[Record] = []
    for locality, group in groupby(records, key=lambda record: record.locality):
        most = AUDIT_BATCH if locality is None else MAX_LOCAL_BATCH
        while part := list(islice(group, most)):
            if len(batch) + len(part) <= AUDIT_BATCH:
                batch += part
            else:
                if batch:
                    yield batch
                batch = part
    if batch:
        yield batch


def audit_record(record: Record, classes: ClassTable, longest_side: int | None = None) -> RecordFacts | Refusal:
    """Reads image and mask in full; checks each, whether they fit each other, and the ids against the label space.

    Every error of a record becomes a finding, so that one bad file does not end the preparation.

    Args:
        longest_side: in pixels; images that are larger become smaller, with their masks (`checked.smaller_image`).

    Raises:
        RetryLater: the storage does not answer (this is not a fault of the record).
    """
    findings: list[Finding] = []
    data, image, kind = b"", None, ImageKind(1, ())
    with _catching("image", findings):
        data = record.image.read()
        kind = image_kind(data)
        findings += _notable_properties(kind)
        image = decode_image(data)
    mask, turn, evidence, ignored, counts = None, 1, None, 0, np.zeros(len(classes), np.int32)
    if record.mask is None:
        if image is not None:
            findings.append(Finding("unlabelled", "there is no mask"))
    else:
        with _catching("mask", findings):
            if isinstance(record.mask, LayeredMask):
                mask, hidden = record.mask.read_with_hidden(classes.names)
                findings += [Finding("hidden_annotation", sentence) for sentence in hidden]
            else:
                mask = _with_own_ignore(record.mask.read(), classes)
            if image is not None:
                turn, evidence = _fit(mask, image, kind.orientation, findings)
            counts, ignored = _class_pixels(mask, classes, findings)
    refusing = [finding.name for finding in findings if finding.refuses]
    if image is None or (refusing and refusing != ["all_ignored"]):
        return Refusal(record, tuple(findings))
    digest, thumbnail = hashlib.sha256(data).digest(), cv2.resize(image, (THUMBNAIL,) * 2, interpolation=cv2.INTER_AREA)
    if longest_side is not None and max(image.shape[:2]) > longest_side:
        image, data = smaller_image(image, longest_side)
        if mask is not None:
            mask = smaller_mask(mask, longest_side)
            counts, ignored = _class_pixels(mask, classes, [])
    stored = None if mask is None else encode_stored_mask(mask.astype(classes.mask_dtype, copy=False))
    facts = RecordFacts(
        record=replace(record, image=CheckedImage(data), mask=None if stored is None else CheckedMask(stored)),
        findings=tuple(findings),
        size=len(data) + len(stored or b""),
        height=image.shape[0],
        width=image.shape[1],
        mask_turn=turn,
        class_pixels=counts,
        thumbnail=thumbnail.ravel(),
        digest=digest,
        ignored_pixels=ignored,
        orientation=kind.orientation,
        stored_evidence=evidence,
    )
    return Refusal(record, facts.findings, facts) if refusing else facts


def refusal(record: Record, error: Exception) -> Refusal:
    """Returns the refusal of a record whose audit failed in a way that nobody foresaw."""
    return Refusal(record, (_fault("record", error),))


def read_mask(facts: RecordFacts) -> np.ndarray | None:
    """Returns the mask of a record that passed, turned to fit its image: (height, width) ids; None = unlabelled."""
    if facts.record.mask is None:
        return None
    mask = upright(facts.record.mask.read(), facts.mask_turn)
    return np.where(mask == IGNORE_8BIT, mask.dtype.type(1), mask) if facts.ignored_is_food else mask


def final_mask(facts: RecordFacts) -> bytes | None:
    """Returns the mask of a record that passed as its shard holds it (`stored_mask`); None = unlabelled."""
    mask = facts.record.mask
    if isinstance(mask, CheckedMask) and facts.mask_turn == 1 and not facts.ignored_is_food:
        return mask.data
    turned = read_mask(facts)
    return None if turned is None else encode_stored_mask(turned)


def present_ids(class_pixels: np.ndarray) -> list[int]:
    """Returns the foreground ids with at least one pixel."""
    return [int(index) for index in np.flatnonzero(class_pixels) if index != BACKGROUND]


@contextlib.contextmanager
def _catching(what: str, findings: list[Finding]) -> Iterator[None]:
    """Turns an error inside the `with` block into a finding, unless the record did not cause it."""
    try:
        yield
    except (RetryLater, MemoryError):
        raise
    except Exception as error:  # a damaged file can make a library raise anything
        findings.append(_fault(what, error))


def _fault(what: str, error: Exception) -> Finding:
    if not isinstance(error, UserError):
        said = " ".join(str(error).split())[:100]
        return Finding("unreadable", f"{what}: it cannot be read ({type(error).__name__}: {said})")
    detail = f"{what}: {error}"
    if isinstance(error, MissingFile):
        return Finding("missing_file", detail)
    return Finding(error.fault if isinstance(error, BadFile) else "unreadable", detail)


def _notable_properties(kind: ImageKind) -> Iterable[Finding]:
    if kind.orientation != 1:
        yield Finding("exif_orientation", f"the image has EXIF orientation {kind.orientation}")
    for trait in kind.traits:
        yield Finding(trait, FINDINGS[trait].text)


def _fit(mask: np.ndarray, image: np.ndarray, orientation: int, findings: list[Finding]) -> tuple[int, float | None]:
    """Compares sizes; returns the turn that makes them equal, and the evidence for a mask drawn as stored."""
    height, width = image.shape[:2]
    sideways = orientation in SWAPS_SIDES
    if mask.shape == (height, width):
        if sideways and height != width:
            return 1, -SIZE_EVIDENCE
        return 1, stored_evidence(image, mask, orientation)
    if mask.shape == (width, height):
        turn, detail = find_mask_orientation(image, mask, orientation)
        findings.append(Finding("swapped_size", detail))
        return turn, SIZE_EVIDENCE if sideways else None
    detail = f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, the image {width} x {height}"
    findings.append(Finding("size_mismatch", detail))
    return 1, None


def _class_pixels(mask: np.ndarray, classes: ClassTable, findings: list[Finding]) -> tuple[np.ndarray, int]:
    """Counts (K,) int32 pixels per id, and those that are ignored, and notes what is wrong with them."""
    counts = np.zeros(max(classes.ignore_id, np.iinfo(mask.dtype).max) + 1, np.int64)
    step = max(1, _BAND_PIXELS // max(1, mask.shape[1]))
    for top in range(0, len(mask), step):  # numpy widens what it counts to 64 bits
        counts += np.bincount(mask[top : top + step].ravel(), minlength=len(counts))
    known, ignored = counts[: len(classes)], int(counts[classes.ignore_id])
    unknown = [int(index) for index in np.flatnonzero(counts) if index >= len(classes) and index != classes.ignore_id]
    if unknown:
        more = f" and {len(unknown) - 1} more unknown ids" if len(unknown) > 1 else ""
        detail = (
            f"the mask holds id {unknown[0]}{more}, but ids go from 0 to {len(classes) - 1} "
            f"({classes.ignore_id} = ignore)"
        )
        findings.append(Finding("unknown_id", detail + _stretched(np.flatnonzero(counts), len(classes))))
    elif not known.any():
        findings.append(Finding("all_ignored", f"every pixel of the mask is ignored (id {classes.ignore_id})"))
    elif not known[BACKGROUND + 1 :].any():
        if ignored:
            detail = (
                f"the mask has no ingredient, and {ignored / mask.size:.1%} of it is {classes.ignore_id} = ignored: "
                "where that marks food, write its id there"
            )
            findings.append(Finding("only_ignored", detail))
        else:
            findings.append(Finding("empty_mask", "the mask is all background"))
    return known.astype(np.int32), ignored


def _with_own_ignore(mask: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Reads 65535 as ignored in a 16-bit mask, also where the label space has an 8-bit ignore id."""
    if mask.dtype == np.uint16 and classes.ignore_id == IGNORE_8BIT:
        return np.where(mask == IGNORE_16BIT, np.uint16(IGNORE_8BIT), mask)
    return mask


def _stretched(ids: np.ndarray, classes: int) -> str:
    """Says how to undo it where ids were stretched to be visible (0, 85, 170, 255); else ""."""
    step = int(np.gcd.reduce(ids))
    several = np.count_nonzero(ids) > 1
    if step > (1 if several else _GREY) and ids.max() // step < classes:
        return f"; they are multiples of {step}, as in a mask that was stretched for viewing: divide them by {step}"
    return ""
