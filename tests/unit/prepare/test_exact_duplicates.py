"""Ids and files that occur twice: which record is kept, which is refused, and the messages."""

from dataclasses import replace

import numpy as np
import pytest

from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.exact_duplicates import refuse_duplicates
from foodseg.prepare.findings import Finding
from foodseg.prepare.record import ImageFile, Record

EMPTY = np.zeros(0)


def good(image_id: str, split: str, content: bytes) -> RecordFacts:
    record = Record(image_id, split, "", ImageFile(f"{image_id}.jpg"), None)
    return RecordFacts(record, (), 1, 1, 1, 1, EMPTY, EMPTY, content)


def shown(text: str) -> list[RecordFacts | Refusal]:
    """Records written as `id split content`, with commas; r = train, v = val, s = test."""
    return [
        good(i, {"r": "train", "v": "val", "s": "test"}[s], c.encode()) for i, s, c in map(str.split, text.split(","))
    ]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ("a r 1, b v 2, c s 3", "- - -"),
        ("a r 1, a r 2", "- duplicate_id"),
        ("a r 1, a s 2, a v 3", "duplicate_id - duplicate_id"),
        ("a r 1, a v 2", "duplicate_id -"),
        ("a v 1, a r 2", "- duplicate_id"),
        ("a r 1, a s 1", "duplicate_id -"),  # one finding suffices: the file belongs to that id
        ("a r 1, a s 2, b r 1", "duplicate_id - -"),  # a record that lost its id does not claim a file
        ("a r 1, b s 1", "split_duplicate -"),
        ("a s 1, b r 1", "- split_duplicate"),
        ("a r 1, b v 1", "split_duplicate -"),
        ("a v 1, b s 1", "split_duplicate -"),
        ("a r 1, b v 1, c s 1", "split_duplicate split_duplicate -"),
        ("a r 1, b r 1, c s 1", "split_duplicate split_duplicate -"),
        ("a r 1, b r 1, c r 1", "- repeated_image repeated_image"),
        ("a r 1, b s 1, c s 1", "split_duplicate - repeated_image"),
        ("", ""),
    ],
)
def test_which_record_is_refused(records: str, expected: str) -> None:
    given = shown(records) if records else []
    found = refuse_duplicates(given)
    assert [each.record for each in found] == [each.record for each in given]
    assert " ".join(",".join(f.name for f in each.findings) or "-" for each in found) == expected
    for each in found:
        assert isinstance(each, Refusal) == any(f.refuses for f in each.findings)


def test_the_messages() -> None:
    found = refuse_duplicates(shown("a r 1, b s 1, b v 2"))
    assert isinstance(found[0], Refusal) and isinstance(found[2], Refusal)
    assert found[0].reason == "the same file as 'b' of test, which keeps it"
    assert (found[0].findings[0].other_id, found[0].findings[0].other_split) == ("b", "test")
    assert found[2].reason == "the id 'b' is also in test, which keeps it"


def test_findings_add_up_and_a_refused_record_claims_no_image() -> None:
    torn = Refusal(good("a", "test", b"1").record, (Finding("truncated", "torn"),))
    grey = replace(good("b", "train", b"1"), findings=(Finding("grey", "no colour"),))
    found = refuse_duplicates([torn, grey, replace(torn), replace(grey, record=good("c", "train", b"1").record)])
    assert [[f.name for f in each.findings] for each in found] == [
        ["truncated"],
        ["grey"],
        ["truncated", "duplicate_id"],
        ["grey", "repeated_image"],
    ]
    assert isinstance(found[2], Refusal) and found[2].reason == "torn; the id 'a' is also in test, which keeps it"


def test_a_good_record_keeps_its_id_before_a_bad_one_of_test() -> None:
    torn = Refusal(good("a", "test", b"1").record, (Finding("truncated", "torn"),))
    found = refuse_duplicates([torn, good("a", "train", b"1"), replace(torn, record=good("a", "val", b"1").record)])
    assert [[f.name for f in each.findings] for each in found] == [
        ["truncated", "duplicate_id"],
        [],
        ["truncated", "duplicate_id"],
    ]
    assert (found[0].findings[1].other_id, found[0].findings[1].other_split) == ("a", "train")
