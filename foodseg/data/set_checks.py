"""What only shows when a data set is seen as a whole, and makes it useless: it is refused before a shard is written.

    refuse_lost_annotations(listing.lost, max_bad)
    refuse_foodless({"train": SplitCounts(...), "test": SplitCounts(...)}, "../meals")

Single images that are wrong are the audit's business (`audit.audit_record`).
"""

from collections.abc import Mapping

from foodseg.classes import BACKGROUND
from foodseg.data.record import LostAnnotations
from foodseg.data.shards import SplitCounts
from foodseg.errors import DataRefused


def refuse_lost_annotations(lost: LostAnnotations | None, max_bad: float) -> None:
    """Counts single annotations: thousands of them may stand in one record of the quarantine.

    Args:
        lost: the annotations of the source that belong to no image; None = its format has none.
        max_bad: the largest share of them that is tolerated.

    Raises:
        DataRefused: more than that share is lost, or all are.
    """
    if lost is None or not lost.count:
        return
    if lost.count > max_bad * lost.total or lost.count == lost.total:
        raise DataRefused(
            f"{lost.count} of {lost.total} annotations belong to no image, a share of {lost.count / lost.total:.3g}, "
            f"and --max-bad is {max_bad:g}; the first: {lost.first}"
        )


def refuse_foodless(counts: Mapping[str, SplitCounts], where: str) -> None:
    """Refuses a data set of which a split has no labelled food pixel: nothing is learned or scored there.

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
    raise DataRefused(f"{where} has no labelled food pixel in {' and '.join(foodless)} ({found}): {remedy}")


def _instead(counts: SplitCounts) -> str:
    masks = counts.pictures - counts.unlabelled
    parts = [
        f"{counts.unlabelled} without mask or annotations" if counts.unlabelled else "",
        f"{masks} with background and ignored pixels only" if masks else "",
    ]
    images = "1 image" if counts.pictures == 1 else f"{counts.pictures} images"
    return f"{images}, {' and '.join(part for part in parts if part)}"
