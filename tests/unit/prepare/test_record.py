"""Ids and sources of records, and records that are known to be bad."""

import pickle

import pytest

from foodseg.data.image_io import BadFile
from foodseg.prepare.record import ImageFile, Record, Unreadable, distinct_ids, source_of


@pytest.mark.parametrize(
    ("stem", "source"), [("canteen__0001", "canteen"), ("a__b__c", "a"), ("0001", ""), ("a_b", ""), ("__x", "")]
)
def test_the_source_is_the_text_before_two_underscores(stem: str, source: str) -> None:
    assert source_of(stem) == source


def test_records_with_one_short_name_get_the_long_one() -> None:
    short = ["1", "2", "1", "3", "3"]
    long = ["train/1", "train/2", "test/1", "train/3", "train/3"]
    # the two 3 are the same image, listed twice
    assert distinct_ids(short, long) == ["train/1", "2", "test/1", "3", "3"]
    assert distinct_ids([], []) == []


def test_an_unreadable_record_says_why_and_survives_pickling() -> None:
    record = Record("a", "train", "", ImageFile("a.jpg"), Unreadable("annotation 5: no such category", "unknown_id"))
    copy = pickle.loads(pickle.dumps(record))
    assert copy == record
    with pytest.raises(BadFile, match="annotation 5: no such category") as error:
        copy.mask.read()
    assert error.value.fault == "unknown_id"
