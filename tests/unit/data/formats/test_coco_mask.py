"""COCO annotations as masks: overlaps worked out by hand, RLE against pycocotools, and what is refused."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_api

from foodseg.data.formats.coco_mask import CocoMask, CocoShape, encode_segmentation
from foodseg.data.sample import MAX_PIXELS
from foodseg.errors import UserError


def square(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def shape(class_id: int, segmentation: Any, *, crowd: bool = False) -> CocoShape:
    return CocoShape("annotation 5", class_id, crowd, json.dumps(segmentation))


def read(*shapes: CocoShape, height: int = 4, width: int = 5) -> list[list[int]]:
    return CocoMask(height, width, shapes).read().tolist()


def compressed(region: np.ndarray) -> dict[str, Any]:
    rle = coco_api.encode(np.asfortranarray(region, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


BIG = square(0, 0, 4, 4)  # 16 pixels
SMALL = square(1, 1, 3, 3)  # 4 pixels
RIGHT = square(2, 1, 4, 3)  # 4 pixels, two of them of SMALL
BIG_UNDER_SMALL = [[1, 1, 1, 1, 0], [1, 2, 2, 1, 0], [1, 2, 2, 1, 0], [1, 1, 1, 1, 0]]


def test_a_smaller_region_lies_on_top_whatever_the_order() -> None:
    big, small = shape(1, [BIG]), shape(2, [SMALL])
    assert read(big, small) == BIG_UNDER_SMALL
    assert read(small, big) == BIG_UNDER_SMALL


def test_of_two_equally_large_the_later_lies_on_top() -> None:
    first, second = shape(1, [SMALL]), shape(2, [RIGHT])
    assert read(first, second)[1] == [0, 1, 2, 2, 0]
    assert read(second, first)[1] == [0, 1, 1, 2, 0]


def test_a_crowd_lies_below_everything_however_small() -> None:
    rle = compressed(np.pad(np.ones((2, 2)), ((1, 1), (1, 2))))  # the pixels of SMALL
    crowd = shape(3, rle, crowd=True)
    assert read(crowd, shape(1, [square(1, 0, 4, 4)])) == [[0, 1, 1, 1, 0]] * 4
    # alone it is its class as any other
    assert read(crowd) == [[0] * 5, [0, 3, 3, 0, 0], [0, 3, 3, 0, 0], [0] * 5]
    # among crowds the smaller lies on top
    assert read(crowd, shape(1, [BIG], crowd=True))[1] == [1, 3, 3, 1, 0]


def test_areas_are_those_of_the_pixels_within_the_picture() -> None:
    # a stripe over the edge: 5 pixels in the picture, fewer than the 6 of the block
    stripe, block = shape(1, [square(0, -1, 5, 1)]), shape(2, [square(0, 0, 2, 3)])
    assert read(block, stripe)[0] == [1, 1, 1, 1, 1]
    assert read(stripe, block)[0] == [1, 1, 1, 1, 1]


def test_what_sticks_out_of_the_picture_is_cut_off() -> None:
    assert read(shape(1, [square(3, 1, 9, 3)])) == [[0] * 5, [0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0] * 5]
    assert read(shape(1, [square(-3, -70, 2, 2)])) == [[1, 1, 0, 0, 0]] * 2 + [[0] * 5] * 2
    assert read(shape(1, [square(-9, -9, 99, 99)])) == [[1] * 5] * 4


def test_the_parts_of_one_annotation_are_joined() -> None:
    assert read(shape(7, [square(0, 0, 1, 4), square(3, 0, 5, 1)])) == [[7, 0, 0, 7, 7]] + [[7, 0, 0, 0, 0]] * 3


def test_uncompressed_rle_runs_down_the_columns() -> None:
    # pixels by column: (0,0) | (1,0) (0,1) | (1,1) (0,2) (1,2)
    rle = {"size": [2, 3], "counts": [1, 2, 3]}
    assert read(shape(4, rle), height=2, width=3) == [[0, 4, 0], [4, 0, 0]]
    assert read(shape(4, {"size": [2, 3], "counts": [0, 6]}), height=2, width=3) == [[4] * 3] * 2
    assert read(shape(4, {"size": [1, 1], "counts": [0, 1]}), height=1, width=1) == [[4]]


def test_a_picture_without_annotations_is_background() -> None:
    assert read() == [[0] * 5] * 4


def test_the_dtype_follows_the_largest_id() -> None:
    assert CocoMask(4, 5, (shape(254, [BIG]),)).read().dtype == np.uint8
    mask = CocoMask(4, 5, (shape(255, [BIG]),)).read()
    assert mask.dtype == np.uint16 and mask.max() == 255


@pytest.mark.parametrize("seed", range(6))
def test_random_regions_are_those_of_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(1, 90)), int(random.integers(1, 90)))
    region = random.random(size) < (0.02, 0.5, 0.98)[seed % 3]
    rle = compressed(region)
    np.testing.assert_array_equal(CocoMask(*size, (shape(1, rle),)).read(), region)
    flat = region.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    runs = np.diff(edges, prepend=0).tolist()
    np.testing.assert_array_equal(CocoMask(*size, (shape(1, {"size": [*size], "counts": runs}),)).read(), region)


def test_runs_of_a_large_picture() -> None:
    region = np.zeros((1500, 2000), bool)
    region[700:, 3] = region[:, 1500:] = True  # runs of more than 2^20 pixels, and shorter than the one before
    np.testing.assert_array_equal(CocoMask(1500, 2000, (shape(1, compressed(region)),)).read(), region)


def test_a_mask_is_small_and_survives_pickling() -> None:
    mask = CocoMask(4, 5, (shape(1, [BIG]), shape(2, [SMALL])))
    data = pickle.dumps(mask)
    assert len(data) < 600
    assert pickle.loads(data) == mask and pickle.loads(data).read().tolist() == BIG_UNDER_SMALL


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([BIG[:7]], "even number of coordinates, this one has 7"),
        ([BIG[:4]], "at least 3 points, this one has 2"),
        ([[]], "at least 3 points, this one has 0"),
        ([BIG, SMALL[:4]], "at least 3 points, this one has 2"),
        ([square(6, 1, 9, 3)], r"a polygon lies wholly outside the picture of 5 x 4, from \(6, 1\)"),
        ([square(1, -3, 3, -0.5)], r"lies wholly outside the picture of 5 x 4, from \(1, -3\)"),
        ([SMALL, square(1e12, 1e12, 2e12, 2e12)], "lies wholly outside"),
        ([square(-1e7, 0, 1, 1)], r"the outline of a polygon is 2e\+07 pixels long, more than the limit of 10,000,000"),
        ([square(-1e308, -1e308, 1e308, 1e308)], "the outline of a polygon is inf pixels long"),
        ([[10**400] * 6], "something else"),
        ([[float("inf")] * 6], "something else"),
        ([[float("nan")] * 6], "something else"),
        ([["1", "2", "3", "4", "5", "6"]], "something else"),
        ([[True] * 6], "something else"),
        (BIG, "something else"),  # without the outer list
        ([{"x": 1}], "something else"),
        ([], "`segmentation` is empty"),
        (None, "neither a list of polygons nor an RLE"),
        ("abc", "neither a list of polygons nor an RLE"),
        ({"size": [4, 5]}, "neither a list of polygons nor an RLE"),
        ({"counts": [20]}, r"size None, the picture \[4, 5\]"),
        ({"size": [5, 4], "counts": [20]}, r"size \[5, 4\], the picture \[4, 5\] \(height, width\)"),
        ({"size": [4, 5], "counts": [3, 4]}, "add up to 7 pixels, the picture has 20"),
        ({"size": [4, 5], "counts": [0, 21]}, "add up to 21 pixels, the picture has 20"),
        ({"size": [4, 5], "counts": [30, -10]}, "numbers from 0"),
        ({"size": [4, 5], "counts": [10.0, 10.0]}, "numbers from 0"),
        ({"size": [4, 5], "counts": None}, "numbers from 0"),
        ({"size": [4, 5], "counts": "\x00\x00"}, "COCO's compressed text"),
        ({"size": [4, 5], "counts": "o"}, "COCO's compressed text"),  # ends within a number
        ({"size": [4, 5], "counts": ""}, "add up to 0 pixels"),
        ({"size": [4, 5], "counts": "oooooooooooo1"}, "add up to"),
    ],
)
def test_bad_segmentations_are_refused_by_name(segmentation: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"^annotation 5: .*{words}"):
        CocoMask(4, 5, (shape(1, [SMALL]), shape(1, segmentation))).read()


def test_truncated_rle_is_refused() -> None:
    rle = compressed(np.random.default_rng(0).random((40, 40)) < 0.5)
    for length in (1, 10, len(rle["counts"]) - 1):
        with pytest.raises(UserError, match=r"add up to|compressed text"):
            encode_segmentation({**rle, "counts": rle["counts"][:length]}, 40, 40)


def test_a_picture_with_too_many_pixels_is_refused_before_its_mask_is_made() -> None:
    with pytest.raises(UserError, match=f"more than the limit of {MAX_PIXELS:,}"):
        CocoMask(10**7, 10**7, ()).read()
