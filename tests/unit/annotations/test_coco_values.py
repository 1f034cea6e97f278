"""Numbers, ids and flags of COCO files: every unambiguous spelling is read, no ambiguous one."""

import math
from typing import Any

import pytest

from foodseg.annotations.coco_values import flag, identifier, is_missing, near_key, whole_number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7), (0, 0), (-3, -3), (10**18, 10**18),
        (7.0, 7), (-3.0, -3), (0.0, 0),
        ("7", 7), (" 7 ", 7), ("7.0", 7), ("7.", 7), ("+7", 7), ("-7", -7), ("007", 7),
        ("20231130123456789", 20231130123456789),
    ],
)  # fmt: skip
def test_one_number_in_every_spelling(value: Any, number: int) -> None:
    assert whole_number(value) == identifier(value) == number and type(whole_number(value)) is int


@pytest.mark.parametrize(
    "value",
    [None, True, False, 1.5, math.nan, math.inf, -math.inf, 2.0**53, 1e300, "", "1.5", "1e3", "a", "1 2", [1], {}],
)
def test_what_is_not_a_whole_number(value: Any) -> None:
    assert whole_number(value) is None


@pytest.mark.parametrize("value", [None, True, 1.5, math.nan, 2.0**53, "", "  ", "1.5", " -0.5", [1], {"id": 1}])
def test_what_is_not_an_id(value: Any) -> None:
    assert identifier(value) is None


def test_text_is_an_id_as_written() -> None:
    assert [identifier(text) for text in ("a7", " plate 7 ", "7a", "1e3", "000123.jpg", "nan")] == [
        "a7", "plate 7", "7a", "1e3", "000123.jpg", "nan",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        (0, False), (1, True), (0.0, False), (1.0, True), (False, False), (True, True), (None, False),
        (math.nan, False),
        ("0", False), ("1", True), ("0.0", False), ("1.0", True), ("false", False), ("True", True), (" FALSE ", False),
        ("", False), ("null", False), ("NaN", False),
        (2, None), ("maybe", None), (-1, None), (0.5, None), ([], None), ({}, None),
    ],
)  # fmt: skip
def test_flags(value: Any, crowd: bool | None) -> None:
    assert flag(value) is crowd


def test_what_is_missing() -> None:
    assert [is_missing(value) for value in (None, math.nan, "", 0, "0", False, [])] == [True] * 3 + [False] * 4


@pytest.mark.parametrize(
    ("keys", "wanted", "near"),
    [
        (["id", "imageId", "bbox"], "image_id", "imageId"),
        (["id", "ImageID"], "image_id", "ImageID"),
        (["id", "img_id", "category_id"], "image_id", "img_id"),
        (["id", "image"], "image_id", "image"),
        (["id", "category_id", "bbox"], "image_id", None),
        (["categoryId", "image_id"], "category_id", "categoryId"),
        (["fileName", "id"], "file_name", "fileName"),
        (["filename", "id"], "file_name", "filename"),
        (["Images", "annotations"], "images", "Images"),
        (["annotation", "images"], "annotations", "annotation"),
        (["info", "licenses", "images", "categories"], "annotations", None),
        ([], "annotations", None),
    ],
)
def test_keys_in_another_spelling(keys: list[str], wanted: str, near: str | None) -> None:
    assert near_key(keys, wanted) == near
