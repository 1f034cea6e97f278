"""Refuses records whose id or file occurs twice in a data set."""

from collections.abc import Sequence
from dataclasses import replace

from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.findings import Finding

_KEEPS = (
    "test",
    "val",
    "train",
)  # which split keeps a shared image: test first, so that scores stay comparable with others'


def refuse_duplicates(audited: Sequence[RecordFacts | Refusal]) -> list[RecordFacts | Refusal]:
    """Refuses repeated ids and images whose file another split keeps; notes files repeated within a split.

    Among records with the same id a valid one keeps it before a refused one, then test before val before train. Files
    are compared only among records that are otherwise valid: a refused record does not claim an image.

    Args:
        audited: in the order of the source's listing.

    Returns:
        The same records in the same order.
    """
    return _repeated_files(_repeated_ids(audited))


def _repeated_ids(audited: Sequence[RecordFacts | Refusal]) -> list[RecordFacts | Refusal]:
    keeper: dict[str, RecordFacts | Refusal] = {}
    for each in sorted(audited, key=lambda one: (isinstance(one, Refusal), _KEEPS.index(one.record.split))):
        keeper.setdefault(each.record.image_id, each)
    result: list[RecordFacts | Refusal] = []
    for each in audited:
        image_id = each.record.image_id
        if (kept := keeper[image_id]) is not each:
            split = kept.record.split
            finding = Finding(
                "duplicate_id", f"the id {image_id!r} is also in {split}, which keeps it", image_id, split
            )
            each = Refusal(each.record, (*each.findings, finding))
        result.append(each)
    return result


def _repeated_files(audited: Sequence[RecordFacts | Refusal]) -> list[RecordFacts | Refusal]:
    keeper: dict[bytes, RecordFacts] = {}
    for split in _KEEPS:
        for each in audited:
            if isinstance(each, RecordFacts) and each.record.split == split:
                keeper.setdefault(each.digest, each)
    result: list[RecordFacts | Refusal] = []
    for each in audited:
        if isinstance(each, RecordFacts) and (kept := keeper[each.digest]) is not each:
            other = kept.record
            where = f"the same file as {other.image_id!r} of {other.split}"
            if other.split == each.record.split:
                finding = Finding("repeated_image", where, other.image_id, other.split)
                each = replace(each, findings=(*each.findings, finding))
            else:
                finding = Finding("split_duplicate", f"{where}, which keeps it", other.image_id, other.split)
                each = Refusal(each.record, (*each.findings, finding))
        result.append(each)
    return result
