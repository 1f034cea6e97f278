"""Ids and files that occur twice: which record is kept, which is refused, and the messages."""

import numpy as np
import pyarrow as pa
import pytest

from foodseg.prepare.exact_duplicates import find_duplicates
from foodseg.prepare.findings import Finding
from foodseg.prepare.formats.layout import SPLITS


def found(text: str) -> tuple[list[Finding | None], list[bool]]:
    """Of records written as `id split content`, with commas: r = train, v = val, s = test; content ! = refused."""
    rows = [tuple(row.split()) for row in text.split(",")] if text else []
    splits = np.array([{"r": 0, "v": 1, "s": 2}[split] for _, split, _ in rows], np.int8)
    passed = np.array([content != "!" for _, _, content in rows], bool)
    digests = np.array([content.encode() for _, _, content in rows], "S16")
    ids = pa.chunked_array([pa.array([row[0] for row in rows], pa.string())])
    duplicates = find_duplicates(ids, digests, splits, passed)
    findings: list[Finding | None] = []
    for row, other in enumerate(duplicates.other.tolist()):
        where = None if other < 0 else (rows[other][0], SPLITS[splits[other]])
        findings.append(None if where is None else duplicates.finding(row, *where))
    return findings, duplicates.refused.tolist()


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
        ("a s !, b r 1, a s !, c r 1", "- - duplicate_id repeated_image"),  # what is refused claims no image
        ("a s 1, b r !, c v 1", "- - split_duplicate"),
        ("a s !, a r 1, a v !", "duplicate_id - duplicate_id"),  # a good record keeps its id before a bad one of test
        ("", ""),
    ],
)
def test_which_record_is_refused(records: str, expected: str) -> None:
    findings, refused = found(records)
    assert " ".join("-" if finding is None else finding.name for finding in findings) == expected
    assert refused == [finding is not None and finding.refuses for finding in findings]


def test_the_messages() -> None:
    findings, _ = found("a r 1, b s 1, b v 2, c s 1, a r !")
    assert [None if finding is None else finding.detail for finding in findings] == [
        "the same file as 'b' of test, which keeps it",
        None,
        "the id 'b' is also in test, which keeps it",
        "the same file as 'b' of test",
        "the id 'a' is also in train, which keeps it",
    ]
    assert findings[0] is not None and (findings[0].other_id, findings[0].other_split) == ("b", "test")
