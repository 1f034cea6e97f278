"""Checks of a data set as a whole: a useless one is refused before a shard is written.

    refuse_lost_annotations(listing.lost, max_bad)
    refuse_foodless({"train": SplitCounts(...), "test": SplitCounts(...)}, "../meals")

`audit.audit_record` checks single images.
"""

import logging
from collections.abc import Mapping

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.data.shards import SplitCounts
from foodseg.errors import DataRefused
from foodseg.prepare.record import LostAnnotations

MUCH_IGNORED = 0.5  # share of ignored pixels above which a warning is logged
_NAMED = 5  # classes that a warning names

_log = logging.getLogger(__name__)


def refuse_lost_annotations(lost: LostAnnotations | None, max_bad: float) -> None:
    """Refuses a data set of which too many annotations are lost: one record of the quarantine may hold thousands.

    Args:
        lost: the annotations of the source that belong to no image; None = its format has no separate annotations.
        max_bad: the largest share of them that is tolerated.

    Raises:
        DataRefused: more than that share is lost, or all are.
    """
    if lost is None or not lost.count:
        return
    if lost.count == lost.total:
        raise DataRefused(f"none of the {lost.total} annotations belongs to an image; the first: {lost.first}")
    if lost.count > max_bad * lost.total:
        raise DataRefused(
            f"{lost.count} of {lost.total} annotations belong to no image, a share of {lost.count / lost.total:.3g}, "
            f"and --max-bad is {max_bad:g}; the first: {lost.first}"
        )


def refuse_foodless(counts: Mapping[str, SplitCounts], where: str) -> None:
    """Refuses a data set with a split without labelled food pixels: it can neither train nor score.

    Args:
        counts: of each split that has images.
        where: names the data set in the error.

    Raises:
        DataRefused: names the splits, and what their images have instead.
    """
    foodless = {split: own for split, own in counts.items() if not any(own.class_pixels[BACKGROUND + 1 :])}
    if not foodless:
        return
    found = "; ".join(f"{split}: {_instead(own)}" for split, own in foodless.items())
    remedy = (
        "check the masks or annotations and the ids of the classes"
        if len(foodless) == len(counts)
        else "label some of these images, or leave the split out"
    )
    if any(own.ignored_pixels for own in foodless.values()):
        remedy = (
            "ignored pixels (255 in masks of 8 bits, 65535 in masks of 16) are never learned: "
            "where they mark food, write its id there"
        )
    raise DataRefused(f"{where} has no labelled food pixel in {' and '.join(foodless)} ({found}): {remedy}")


def _instead(counts: SplitCounts) -> str:
    masks = counts.images - counts.unlabelled
    parts = [
        f"{counts.unlabelled} without mask or annotations" if counts.unlabelled else "",
        f"{masks} with background and ignored pixels only{_ignored(counts)}" if masks else "",
    ]
    images = "1 image" if counts.images == 1 else f"{counts.images} images"
    return f"{images}, {' and '.join(part for part in parts if part)}"


def warn_of_labels(counts: Mapping[str, SplitCounts], classes: ClassTable) -> None:
    """Warns of classes that no mask holds, and of splits whose pixels are mostly ignored."""
    never = [
        index
        for index in range(BACKGROUND + 1, len(classes))
        if not any(own.class_pixels[index] for own in counts.values())
    ]
    if never and counts:
        named = ", ".join(f"{index} {classes.names[index]!r}" for index in never[:_NAMED])
        more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        _log.warning(
            "no mask holds the id of %d of the %d classes: %s%s; take them out of the class table, or correct masks",
            len(never), len(classes), named, more,
        )  # fmt: skip
    for split, own in counts.items():
        if own.ignored_share > MUCH_IGNORED:
            _log.warning(
                "%s: %.0f %% of the pixels of the masks are %d = ignored, which is never learned; where it marks food, "
                "write the id of the food there",
                split, 100 * own.ignored_share, classes.ignore_id,
            )  # fmt: skip


def _ignored(counts: SplitCounts) -> str:
    return f", {counts.ignored_share:.1%} of them ignored" if counts.ignored_pixels else ""
