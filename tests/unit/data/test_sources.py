"""What each source annotates: sources.tsv, and the table of the ids that the loss must not hold against background."""

import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.data.sources import parse_sources, scorable_mask, unannotated
from foodseg.errors import UserError

CLASSES = ClassTable(("background", "rice", "miso soup", "egg"))
SOURCES = {"canteen", "uec", "", "home"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("canteen\t*\n", {}),
        ("uec\t1, miso soup\n\ncanteen\t3\r\n", {"uec": (0, 1, 2), "canteen": (0, 3)}),
        ("uec\t0\n", {"uec": (0,)}),  # only where food is not
        ("uec\t0,1,2,3\n", {}),
        ("home\tegg,egg,3\n", {"home": (0, 3)}),
        ("\tegg\n", {"": (0, 3)}),  # images whose names name no source
    ],
)
def test_ids_and_names(text: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert parse_sources(text, "sources.tsv", CLASSES, SOURCES) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("canteen\n", "sources.tsv, line 1: expected 'source<TAB>ids or names with commas, or *', found 'canteen'"),
        ("canteen\t\n", "line 1: expected"),
        ("canteen\t*\nuec\t1,,2\n", "line 2: '' is neither an id from 0 to 3 nor one of the class names"),
        ("canteen\t4\n", "'4' is neither an id"),
        ("canteen\t-1\n", "'-1' is neither an id"),
        ("canteen\tsoup\n", "'soup' is neither an id"),
        ("canteen\t1\ncanteen\t2\n", "line 2: source 'canteen' occurs twice"),
        ("cantine\t1\n", "line 1: no image has the source 'cantine'; the sources are '', 'canteen', 'home', 'uec'"),
    ],
)
def test_lines_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_sources(text, "sources.tsv", CLASSES, SOURCES)
    assert words in str(caught.value)


def test_the_table_of_unannotated_ids() -> None:
    table = unannotated({"a": None, "b": (0, 2), "c": (1,)}, 4)
    assert table is not None
    assert table.tolist() == [[False] * 4, [False, True, False, True], [False, False, True, True]]
    assert unannotated({"a": None}, 4) is None
    assert unannotated({"a": None, "b": (0, 1, 2, 3)}, 4) is None
    assert unannotated({}, 4) is None


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        (None, [[0, 0, 0], [0, 1, 255]]),
        ((0, 1), [[0, 0, 255], [255, 1, 255]]),  # rice is annotated; soup and egg are not
        ((0, 2), [[0, 0, 0], [255, 1, 255]]),  # rice is in the mask, so it is annotated in this image
        ((0,), [[0, 0, 255], [255, 1, 255]]),
        ((0, 1, 2, 3), [[0, 0, 0], [0, 1, 255]]),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_background_where_an_unannotated_id_is_predicted(
    annotated: tuple[int, ...] | None, expected: list[list[int]], dtype: type
) -> None:
    truth = np.array([[0, 0, 0], [0, 1, 255]], dtype)
    prediction = np.array([[0, 1, 2], [3, 2, 3]], np.uint8)
    found = scorable_mask(truth, prediction, annotated, CLASSES)
    assert found.tolist() == expected and found.dtype == dtype
    assert truth.tolist() == [[0, 0, 0], [0, 1, 255]]
