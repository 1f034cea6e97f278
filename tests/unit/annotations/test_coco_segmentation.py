"""Segmentations of COCO: unambiguous spellings are read, others refused."""

import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_api

from foodseg.annotations.coco_segmentation import encode, extent, is_empty, parse_segmentation, size_at_least
from foodseg.errors import UserError
from tests.unit.annotations.test_coco_mask import BIG, SMALL, compressed, square

SMALL_PIXELS = [[0] * 5, [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5]
PAIRS = [[1, 1], [3, 1], [3, 3], [1, 3]]
SMALL_RUNS = [5, 2, 2, 2, 9]  # down the columns of 4


def pixels(segmentation: Any, height: int = 4, width: int = 5) -> list[list[int]]:
    return coco_api.decode(encode(parse_segmentation(segmentation), height, width)).tolist()


@pytest.mark.parametrize(
    "segmentation",
    [
        [SMALL],
        SMALL,  # one polygon without the outer list
        PAIRS,  # a list of points
        [PAIRS],
        [[str(value) for value in SMALL]],
        [[f" {value}.0 " for value in SMALL]],
        [SMALL, []],
        [[], SMALL],
        [SMALL, PAIRS],
        json.dumps([SMALL]),
        str([SMALL]),
        f"  {SMALL} ",
        {"size": [4, 5], "counts": SMALL_RUNS},
        {"size": ["4", 5.0], "counts": SMALL_RUNS},
        {"size": [4, 5], "counts": [float(run) for run in SMALL_RUNS]},
        {"size": [4, 5], "counts": [str(run) for run in SMALL_RUNS]},
        {"counts": SMALL_RUNS},
        [{"size": [4, 5], "counts": SMALL_RUNS}],
        {"size": None, "counts": SMALL_RUNS},
        str({"size": [4, 5], "counts": SMALL_RUNS}),  # single quotes, as a table of pandas holds it
        str({"size": (4, 5), "counts": SMALL_RUNS}),
        str({"size": [4, 5], "counts": compressed(np.array(SMALL_PIXELS))["counts"].encode()}),
    ],
)
def test_one_region_in_every_spelling(segmentation: Any) -> None:
    assert pixels(segmentation) == SMALL_PIXELS


def test_the_extent_is_over_all_parts() -> None:
    assert extent(parse_segmentation([square(0, 0, 2, 9), square(3, 1, 7, 2)])) == (7, 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("segmentation", "size"),
    [
        ([[0, 1, 7, 2, 3, 9], [1, 1, 8.5, 2, 3, 4]], (9, 8.5)),
        ([0, 1, 7, 2, 3, 9], (9, 7)),
        ({"size": [4, "5"], "counts": "abc"}, (4, 5)),
        ([], (0, 0)),
        ([[]], (0, 0)),
        (None, (0, 0)),
        ({"counts": []}, (0, 0)),
        ([["a", "b"]], (0, 0)),
        ([[[1, 2], [3, 4], [5, 6]]], (0, 0)),
        ("[[1, 2, 3]]", (0, 0)),
    ],
)
def test_the_size_that_a_region_needs(segmentation: Any, size: tuple[float, float]) -> None:
    assert size_at_least(segmentation) == size


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", [], [[]], {}, "[]", "[[]]", "{}", "null"])
def test_empty_segmentations(value: Any) -> None:
    assert is_empty(value)


@pytest.mark.parametrize("value", [[SMALL], SMALL, {"counts": []}, "[1]", "garbage", str([BIG])])
def test_segmentations_that_are_not_empty(value: Any) -> None:
    assert not is_empty(value)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([BIG[:7]], "even number of coordinates, this one has 7"),
        ([BIG[:4]], "at least 3 points, this one has 2"),
        ([[]], "`segmentation` is empty"),
        ([BIG, SMALL[:4]], "at least 3 points, this one has 2"),
        ([square(6, 1, 9, 3)], r"a polygon lies wholly outside the image of 5 x 4, from \(6, 1\)"),
        ([square(1, -3, 3, -0.5)], r"lies wholly outside the image of 5 x 4, from \(1, -3\)"),
        ([SMALL, square(1e12, 1e12, 2e12, 2e12)], "lies wholly outside"),
        ([square(-1e7, 0, 1, 1)], r"the outline of a polygon is 2e\+07 pixels long, more than the limit of 10,000,000"),
        ([square(-1e308, -1e308, 1e308, 1e308)], "the outline of a polygon is inf pixels long"),
        ([[10**400] * 6], "something else"),
        ([[float("inf")] * 6], "something else"),
        ([[float("nan")] * 6], "something else"),
        ([["1", "2", "3", "4", "5", "six"]], "something else: 'six'"),
        ([["1", "2", "3", "4", "5", "nan"]], "something else"),
        ([[True] * 6], "something else"),
        (BIG[:4], "at least 3 points, this one has 2"),
        (PAIRS[:2], "at least 3 points, this one has 1"),
        ([BIG, 5], "something else"),
        ([{"x": 1}], "neither a list of polygons nor an RLE"),
        ([{"x": 1}, {"x": 2}], "something else"),
        ([], "`segmentation` is empty"),
        (None, "neither a list of polygons nor an RLE"),
        ("abc", "a text that spells no list or RLE: 'abc'"),
        ("[1, 2", "a text that spells no list or RLE"),
        ("12", "neither a list of polygons nor an RLE"),
        ({"size": [4, 5]}, "neither a list of polygons nor an RLE"),
        ({"size": [4], "counts": [20]}, r"`size` should be \[height, width\], found \[4\]"),
        ({"size": [4, 0], "counts": [20]}, r"`size` should be"),
        ({"size": [4, 5.5], "counts": [20]}, r"`size` should be"),
        ({"size": "4x5", "counts": [20]}, r"`size` should be"),
        ({"counts": [21]}, "add up to 21 pixels, the image has 20"),
        ({"size": [5, 4], "counts": [20]}, r"size \[5, 4\], the image \[4, 5\] \(height, width\)"),
        ({"size": [4, 5], "counts": [3, 4]}, "add up to 7 pixels, the image has 20"),
        ({"size": [4, 5], "counts": [0, 21]}, "add up to 21 pixels, the image has 20"),
        ({"size": [4, 5], "counts": [30, -10]}, "numbers from 0"),
        ({"size": [4, 5], "counts": [10.5, 9.5]}, "numbers from 0"),
        ({"size": [4, 5], "counts": [True, 19]}, "numbers from 0"),
        ({"size": [4, 5], "counts": None}, "numbers from 0"),
        ({"size": [4, 5], "counts": "\x00\x00"}, "COCO's compressed text"),
        ({"size": [4, 5], "counts": "o"}, "COCO's compressed text"),  # ends within a number
        ({"size": [4, 5], "counts": ""}, "add up to 0 pixels"),
        ({"size": [4, 5], "counts": "oooooooooooo1"}, "add up to"),
    ],
)
def test_bad_segmentations_are_refused_by_name(segmentation: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        pixels(segmentation)


def test_truncated_rle_is_refused() -> None:
    rle = compressed(np.random.default_rng(0).random((40, 40)) < 0.5)
    for length in (1, 10, len(rle["counts"]) - 1):
        with pytest.raises(UserError, match=r"add up to|compressed text"):
            pixels({**rle, "counts": rle["counts"][:length]}, 40, 40)


def test_normalised_coordinates_are_refused() -> None:
    shares = [[0.1, 0.2, 0.9, 0.2, 0.5, 0.8]]
    words = "all coordinates of its polygons are between 0 and 1, .* multiply x by 80 and y by 60"
    with pytest.raises(UserError, match=words):
        pixels(shares, 60, 80)
    with pytest.raises(UserError, match=words):
        pixels([shares[0], square(0, 0, 1, 1)], 60, 80)
    assert pixels([square(0, 0, 1, 1), SMALL], 60, 80)[0][0] == 1  # one of them says that pixels are meant
    assert pixels([square(0, 0, 1, 1)])[0] == [1, 0, 0, 0, 0]  # a tiny image
