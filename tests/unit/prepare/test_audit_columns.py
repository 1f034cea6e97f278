"""What the driver keeps of the audit, the verdict about each record, and the tables that are written of it."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.data.shards import read_findings, read_quarantine
from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.audit_columns import AuditColumns, Verdict
from foodseg.prepare.audit_rows import encode_audit
from foodseg.prepare.audit_tables import write_audit_tables
from foodseg.prepare.checked import CheckedImage, CheckedMask
from foodseg.prepare.findings import Finding
from foodseg.prepare.near_duplicates import Pair
from foodseg.prepare.record import ImageFile, Record
from foodseg.prepare.record_batches import RecordBatches

CLASSES = ClassTable(("background", "rice", "egg"))
ONE = ClassTable(("background", "food"))
ALL_IGNORED = Finding("all_ignored", "every pixel of the mask is ignored (id 255)")
GREY = Finding("grey", "the image has no colour")


def good(
    name: str, pixels: list[int], ignored: int = 0, findings: tuple[Finding, ...] = (), split: str = "train"
) -> RecordFacts:
    record = Record(name, split, "s", CheckedImage(b"x"), CheckedMask(b"y"))
    counts, thumbnail, digest = np.array(pixels, np.int32), np.zeros(768, np.uint8), name[:1].encode() * 32
    return RecordFacts(record, findings, 7, 2, 3, 1, counts, thumbnail, digest, ignored)


def torn(name: str) -> Refusal:
    return Refusal(Record(name, "train", "s", ImageFile("a.jpg"), None), (Finding("truncated", "it is torn"),))


def decided(
    audited: list[RecordFacts | Refusal], classes: ClassTable = CLASSES
) -> tuple[Verdict, list[RecordFacts | Refusal]]:
    listed = RecordBatches(each.record for each in audited)
    columns = AuditColumns(listed)
    for batch in reversed(listed.batches):
        columns.add(batch, audited[batch.start : batch.start + batch.items])
    verdict = columns.verdict(classes)
    return verdict, [verdict.of(row, each) for row, each in enumerate(audited)]


AUDITED: list[RecordFacts | Refusal] = [
    good("a", [5, 1, 0]), torn("b"), good("c", [4, 0, 2], 3, (GREY,)), good("cc", [4, 0, 2], split="test"),
    good("d", [6, 0, 0]), *(good(f"e{n}", [1, 2, 3]) for n in range(20)), torn("a"),
]  # fmt: skip


def test_columns_of_records_that_pass() -> None:
    verdict, found = decided(AUDITED)
    assert verdict.passed.tolist() == [isinstance(each, RecordFacts) for each in found]
    assert verdict.noted.tolist() == [bool(each.findings) for each in found]
    assert [[finding.name for finding in each.findings] for each in found[:7]] == [
        [], ["truncated"], ["grey", "split_duplicate"], [], [], [], ["repeated_image"],
    ]  # fmt: skip
    assert [finding.name for finding in found[-1].findings] == ["truncated", "duplicate_id"]
    assert found[-1].findings[1].other_split == "train"
    assert verdict.sizes[:3].tolist() == [7, 0, 7]
    assert (verdict.labelled[2], verdict.food[2], verdict.ignored[2]) == (6, 2, 3)
    rows = np.array([0, 3, 4])
    counts = verdict.food_counts(rows, np.array([0, 2, 0]))
    assert list(counts) == ["train", "test"] and counts["train"].class_pixels == (11, 1)
    assert counts["train"].class_images == (2, 1) and counts["test"].class_pixels == (4, 2)


def test_what_is_kept_of_each_record_is_small() -> None:
    rows = 4000
    decided(AUDITED)  # what is imported once counts for nobody
    tracemalloc.start()
    listed = RecordBatches(good(f"canteen__{n:06d}", [1, 2, 3]).record for n in range(rows))
    columns = AuditColumns(listed)
    for batch in listed.batches:
        columns.add(batch, [good(each.image_id, [1, 2, 3], 0, (GREY,)) for each in batch.records])
    verdict = columns.verdict(CLASSES)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert verdict.noted.all() and 0 < kept / rows + verdict.listed.ids.nbytes / rows < 150


def test_255_as_food_lets_records_pass() -> None:
    ignored = good("b", [0, 0], 6, (ALL_IGNORED,))
    verdict, found = decided([good("a", [4, 0], 2), Refusal(ignored.record, (ALL_IGNORED,), ignored)], ONE)
    assert verdict.passed.tolist() == [True, True] and verdict.food.tolist() == [2, 6]
    assert verdict.ignored.tolist() == [0, 0] and verdict.labelled.tolist() == [6, 6] and verdict.noted.all()
    assert [[finding.name for finding in each.findings] for each in found] == [["ignored_is_food"]] * 2
    assert [each.class_pixels.tolist() for each in found if isinstance(each, RecordFacts)] == [[4, 2], [0, 6]]


def test_facts_of_other_records_are_refused_and_not_kept() -> None:
    listed = RecordBatches(each.record for each in AUDITED)
    columns = AuditColumns(listed)
    with pytest.raises(ValueError, match="other records"):
        columns.add(listed.batches[0], AUDITED[1:17])
    with pytest.raises(ValueError, match="other records"):
        columns.add(listed.batches[0], AUDITED[:15])
    assert not columns.verdict(CLASSES).passed.any()


def test_the_tables(tmp_path: Path) -> None:
    verdict, found = decided(AUDITED)
    (tmp_path / "audit").mkdir()
    for batch in verdict.listed.batches:
        own = AUDITED[batch.start : batch.start + batch.items]
        (tmp_path / "audit" / batch.key).write_bytes(encode_audit(own))
    splits = verdict.listed.splits.copy()
    splits[6] = 1  # carved out
    pairs = [Pair(3, 0, 0.96875)]
    summary = write_audit_tables(str(tmp_path / "v-1"), str(tmp_path / "audit"), verdict, splits, pairs, CLASSES)
    assert summary.refused == 3 and summary.first == "'b' of train: it is torn"
    assert summary.audit == {
        "truncated": 2, "duplicate_id": 1, "split_duplicate": 1, "grey": 1, "repeated_image": 19, "near_duplicate": 1,
    }  # fmt: skip
    rows = read_findings(str(tmp_path), "v-1")
    assert [row["image_id"] for row in rows[:4]] == ["b", "c", "c", "e1"]
    assert (rows[3]["split"], rows[3]["other_id"]) == ("val", "e0")
    assert rows[-1] == {
        "image_id": "cc", "split": "test", "finding": "near_duplicate", "other_id": "a", "other_split": "train",
        "detail": "looks like 'a' of train, correlation 0.969", "correlation": 0.96875,
    }  # fmt: skip
    refused = read_quarantine(str(tmp_path), "v-1")
    assert [row["image_id"] for row in refused] == ["b", "c", "a"]
    assert len(rows) - 1 == sum(len(each.findings) for each in found)
    assert refused[2]["reason"] == "it is torn; the id 'a' is also in train, which keeps it"
