"""What only shows when all records are seen together: ids and files that stand twice."""

from collections.abc import Sequence
from dataclasses import replace

from foodseg.data.audit import RecordFacts, Refusal
from foodseg.data.findings import Finding

_KEEPS = ("test", "val", "train")  # which split keeps a picture that several hold: test must stay what others score on


def refuse_duplicates(audited: Sequence[RecordFacts | Refusal]) -> list[RecordFacts | Refusal]:
    """Refuses records whose id stood before and pictures whose file another split keeps; notes those repeated in one.

    Files are compared among the records that are good otherwise: what was refused holds no picture back.

    Args:
        audited: in the order of the source's listing.

    Returns:
        The same records in the same order.
    """
    return _repeated_files(_repeated_ids(audited))


def _repeated_ids(audited: Sequence[RecordFacts | Refusal]) -> list[RecordFacts | Refusal]:
    first: dict[str, RecordFacts | Refusal] = {}
    result: list[RecordFacts | Refusal] = []
    for each in audited:
        if each.record.image_id in first:
            split = first[each.record.image_id].record.split
            detail = (
                f"the id {each.record.image_id!r} is listed before, in {split}: a picture belongs to one split, once"
            )
            finding = Finding("duplicate_id", detail, other_id=each.record.image_id, other_split=split)
            each = Refusal(each.record, (*each.findings, finding))
        else:
            first[each.record.image_id] = each
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
                finding = Finding("repeated_picture", where, other.image_id, other.split)
                each = replace(each, findings=(*each.findings, finding))
            else:
                finding = Finding("split_duplicate", f"{where}, which keeps it", other.image_id, other.split)
                each = Refusal(each.record, (*each.findings, finding))
        result.append(each)
    return result
