"""What only shows when all records are seen together: ids and files that stand twice."""

from collections.abc import Sequence
from dataclasses import replace

from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.findings import Finding

_KEEPS = ("test", "val", "train")  # which split keeps an image that several hold: test must stay what others score on


def refuse_duplicates(audited: Sequence[RecordFacts | Refusal]) -> list[RecordFacts | Refusal]:
    """Refuses records whose id another keeps and images whose file another split keeps; notes those repeated in one.

    Of the records with one id a good one keeps it before a bad one, then test before val before train. Files are
    compared among the records that are good otherwise: what was refused holds no image back.

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
            finding = Finding("duplicate_id", f"the id {image_id!r} stands in {split}, which keeps it", image_id, split)
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
