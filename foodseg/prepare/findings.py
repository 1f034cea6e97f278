"""What an audit can find about a record, under stable names: in the manifest, `findings.parquet` and `inspect`.

A record may have several findings. One that refuses is enough to leave the record out; the others are still reported,
so that an audit after a repair finds nothing new.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FindingName = Literal[
    "missing_file", "empty_file", "other_format", "unreadable", "truncated", "too_many_pixels", "mask_mode",
    "unknown_id", "ambiguous_name", "size_mismatch", "all_ignored", "duplicate_id", "split_duplicate",
    "swapped_size", "stored_mask", "ignored_is_food",
    "exif_orientation", "alpha", "cmyk", "sixteen_bit", "grey", "palette", "frames", "empty_mask",
    "only_ignored", "unlabelled",
    "hidden_annotation",
    "unclear_turn",
    "repeated_image", "near_duplicate",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What a finding does to its record (`repaired` and `counted` ones pass), and its meaning in one line."""

    effect: Literal["refused", "repaired", "counted"]
    text: str


FINDINGS: dict[str, Kind] = {  # one for each FindingName
    "missing_file": Kind("refused", "the image or the mask is not there"),
    "empty_file": Kind("refused", "the file of the image or the mask is empty"),
    "other_format": Kind("refused", "the file is not JPEG, PNG, WEBP, BMP or TIFF"),
    "unreadable": Kind("refused", "the image or the mask is damaged"),
    "truncated": Kind("refused", "the file ends before its last pixel"),
    "too_many_pixels": Kind("refused", "the image or the mask has more pixels than the limit"),
    "mask_mode": Kind("refused", "the mask does not hold ids but colours, fractions or lossily compressed values"),
    "unknown_id": Kind("refused", "the mask holds an id that the class table does not have"),
    "ambiguous_name": Kind("refused", "two files have the name that is listed, or that the mask should have"),
    "size_mismatch": Kind("refused", "the mask has another size than the image"),
    "all_ignored": Kind("refused", "every pixel of the mask is ignored"),
    "duplicate_id": Kind("refused", "another record has the same id and keeps it: test before val before train"),
    "split_duplicate": Kind(
        "refused", "the same file is in another split, which keeps it: test before val before train"
    ),
    "swapped_size": Kind("repaired", "the mask had height and width swapped and was turned to fit the image"),
    "stored_mask": Kind(
        "repaired", "the mask was drawn on the image as it is stored and was turned as the EXIF orientation says"
    ),
    "ignored_is_food": Kind("repaired", "255 was read as the only ingredient, since no mask holds its id"),
    "exif_orientation": Kind("counted", "the image was turned as its EXIF orientation says"),
    "alpha": Kind("counted", "the image has transparency and was laid on white"),
    "cmyk": Kind("counted", "the image was converted from CMYK"),
    "sixteen_bit": Kind("counted", "the image was scaled from 16 bits to 8"),
    "grey": Kind("counted", "the image has no colour"),
    "palette": Kind("counted", "the image has a palette"),
    "frames": Kind("counted", "the image has several frames or pages, and the first one was read"),
    "empty_mask": Kind("counted", "the mask is all background"),
    "only_ignored": Kind(
        "counted", "the mask holds ignored pixels and no ingredient: where 255 marks food, write its id there"
    ),
    "unlabelled": Kind("counted", "the image has no mask"),
    "hidden_annotation": Kind("counted", "an annotation leaves no pixel: smaller ones cover it, or it has none"),
    "unclear_turn": Kind(
        "counted", "the image has an EXIF orientation, and its mask, taken as shown, may not fit: look at it"
    ),
    "repeated_image": Kind("counted", "the same file occurs earlier in this split"),
    "near_duplicate": Kind("counted", "a pair of images of different splits that look alike"),
}


@dataclass(frozen=True)
class Finding:
    """One finding about one record.

    Attributes:
        detail: one sentence with the particulars.
        other_id, other_split: the record that this one repeats, if any.
        correlation: of the two thumbnails, for near-duplicates.
    """

    name: FindingName
    detail: str
    other_id: str | None = None
    other_split: str | None = None
    correlation: float | None = None

    @property
    def refuses(self) -> bool:
        """True where the record is left out."""
        return FINDINGS[self.name].effect == "refused"


def count_findings(names: Iterable[str]) -> dict[str, int]:
    """Counts each name that occurs, in the order of FINDINGS."""
    counts = Counter(names)
    return {name: counts[name] for name in FINDINGS if counts[name]}
