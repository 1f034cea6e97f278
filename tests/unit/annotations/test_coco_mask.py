"""COCO annotations as masks: overlaps worked out by hand, RLE against pycocotools, and missing sizes."""

import io
import json
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_api

from foodseg.annotations.coco_mask import CocoMask, CocoShape
from foodseg.data.image_io import MAX_PIXELS
from foodseg.data.unread import UnreadImage
from foodseg.errors import UserError
from foodseg.prepare.record import Unreadable


def square(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def shape(class_id: int, segmentation: Any, *, crowd: bool = False) -> CocoShape:
    return CocoShape("annotation 5", class_id, crowd, json.dumps(segmentation))


NOT_READ = Unreadable("the image is not needed")


def read(
    *shapes: CocoShape, height: int | None = 4, width: int | None = 5, image: UnreadImage = NOT_READ
) -> list[list[int]]:
    return CocoMask(height, width, shapes, image).read().tolist()


@dataclass(frozen=True)
class InMemory:
    """A JPEG of that size, stored with an EXIF orientation."""

    height: int
    width: int
    orientation: int = 1

    def read(self) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = self.orientation
        stream = io.BytesIO()
        Image.new("RGB", (self.width, self.height)).save(stream, "JPEG", exif=exif)
        return stream.getvalue()


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


def test_the_later_of_two_equally_large_lies_on_top() -> None:
    first, second = shape(1, [SMALL]), shape(2, [RIGHT])
    assert read(first, second)[1] == [0, 1, 2, 2, 0]
    assert read(second, first)[1] == [0, 1, 1, 2, 0]


SMALL_RLE = compressed(np.pad(np.ones((2, 2)), ((1, 1), (1, 2))))  # the pixels of SMALL


def test_a_small_crowd_stays_visible_on_what_it_was_painted_on() -> None:
    # CVAT: rice as a polygon, the egg on it with the brush, which is written as a crowd
    crowd = shape(3, SMALL_RLE, crowd=True)
    assert read(shape(1, [BIG]), crowd) == [[1, 1, 1, 1, 0], [1, 3, 3, 1, 0], [1, 3, 3, 1, 0], [1, 1, 1, 1, 0]]
    assert read(crowd, shape(1, [BIG])) == read(shape(1, [BIG]), crowd)
    # alone it is painted as its class
    assert read(crowd) == [[0] * 5, [0, 3, 3, 0, 0], [0, 3, 3, 0, 0], [0] * 5]


def test_a_crowd_lies_below_what_it_covers() -> None:
    # COCO: a crowd is the region around instances that are annotated as well
    everywhere = shape(3, {"size": [4, 5], "counts": [0, 20]}, crowd=True)
    assert read(shape(2, [SMALL]), everywhere)[1] == [3, 2, 2, 3, 3]
    # of the same pixels the instance is seen, in either order
    same = shape(3, SMALL_RLE, crowd=True)
    assert read(shape(2, [SMALL]), same)[1] == read(same, shape(2, [SMALL]))[1] == [0, 2, 2, 0, 0]


def test_the_smaller_of_two_crowds_lies_on_top() -> None:
    crowd = shape(3, SMALL_RLE, crowd=True)
    for order in ((crowd, shape(1, [BIG], crowd=True)), (shape(1, [BIG], crowd=True), crowd)):
        assert read(*order)[1] == [1, 3, 3, 1, 0]


def test_annotations_that_leave_no_pixel_are_reported() -> None:
    names = ("background", "rice", "egg", "tofu")

    def hidden(*shapes: CocoShape) -> list[str]:
        return CocoMask(4, 5, shapes, NOT_READ).read_with_hidden(names)[1]

    left, right = square(0, 0, 2, 4), square(2, 0, 4, 4)
    assert hidden(shape(1, [BIG]), shape(2, [SMALL])) == []
    # two halves cover the whole
    assert hidden(shape(1, [BIG]), shape(2, [left]), shape(3, [right])) == [
        "annotation 5 ('rice') leaves no pixel: smaller annotations cover it, mostly of 'egg'"
    ]
    # the same pixels twice: the later one is seen
    assert hidden(shape(1, [SMALL]), shape(2, [SMALL])) == [
        "annotation 5 ('rice') leaves no pixel: smaller annotations cover it, mostly of 'egg'"
    ]
    # smaller ones of the same class hide nothing
    assert hidden(shape(1, [SMALL]), shape(1, [SMALL])) == []
    # a line has no area
    assert hidden(shape(2, [[1, 1, 3, 1, 2, 1]])) == ["annotation 5 ('egg') leaves no pixel: it covers no pixel"]
    assert hidden(shape(1, [SMALL]), shape(255, [SMALL])) == [
        "annotation 5 ('rice') leaves no pixel: smaller annotations cover it, mostly of ignored pixels"
    ]


def test_a_missing_size_is_that_of_the_rle_or_of_the_image() -> None:
    rle = shape(3, SMALL_RLE)
    assert read(rle, height=None, width=None) == read(rle)
    assert read(rle, shape(1, [BIG]), height=None, width=5) == read(rle, shape(1, [BIG]))
    assert read(shape(1, [BIG]), height=None, width=None, image=InMemory(4, 5)) == read(shape(1, [BIG]))
    assert read(height=None, width=None, image=InMemory(2, 3)) == [[0] * 3] * 2
    two = shape(3, {"size": [2, 10], "counts": [20]})
    with pytest.raises(UserError, match=r"the RLE has size \[2, 10\], the image \[4, 5\]"):
        read(rle, two, height=None, width=None, image=InMemory(4, 5))


def test_where_an_rle_contradicts_the_listed_size_the_image_decides() -> None:
    rle = shape(3, SMALL_RLE)
    assert read(rle, height=5, width=4, image=InMemory(4, 5)) == read(rle)
    assert read(rle, height=480, width=640, image=InMemory(4, 5)) == read(rle)
    # the RLE has the wrong size, or nothing fits: ambiguous
    for image in (InMemory(5, 4), InMemory(9, 9)):
        with pytest.raises(UserError, match=r"the RLE has size \[4, 5\], the image \[5, 4\] \(height, width\)"):
            read(rle, height=5, width=4, image=image)


def test_an_image_that_is_turned_by_exif_gives_its_size_as_shown_or_as_the_polygons_need_it() -> None:
    turned = InMemory(4, 8, orientation=6)  # 8 high and 4 wide as shown
    low = shape(1, [square(0, 5, 4, 8)])
    assert np.array(read(low, height=None, width=None, image=turned)).shape == (8, 4)
    # drawn on the image as stored: it does not fit otherwise
    wide = shape(1, [square(5, 0, 8, 4)])
    assert read(wide, height=None, width=None, image=turned) == [[0] * 5 + [1] * 3] * 4
    # without an EXIF turn nothing supports that: the part outside is cut off
    over = shape(1, [square(2, 0, 8, 4)])
    assert read(over, height=None, width=None, image=InMemory(8, 4)) == [[0, 0, 1, 1]] * 4 + [[0] * 4] * 4


def test_areas_are_those_of_the_pixels_within_the_image() -> None:
    # a stripe over the edge: 5 pixels in the image, fewer than the 6 of the block
    stripe, block = shape(1, [square(0, -1, 5, 1)]), shape(2, [square(0, 0, 2, 3)])
    assert read(block, stripe)[0] == [1, 1, 1, 1, 1]
    assert read(stripe, block)[0] == [1, 1, 1, 1, 1]


def test_the_part_outside_the_image_is_cut_off() -> None:
    assert read(shape(1, [square(3, 1, 9, 3)])) == [[0] * 5, [0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0] * 5]
    assert read(shape(1, [square(-3, -70, 2, 2)])) == [[1, 1, 0, 0, 0]] * 2 + [[0] * 5] * 2
    assert read(shape(1, [square(-9, -9, 99, 99)])) == [[1] * 5] * 4


def test_the_parts_of_one_annotation_are_merged() -> None:
    assert read(shape(7, [square(0, 0, 1, 4), square(3, 0, 5, 1)])) == [[7, 0, 0, 7, 7]] + [[7, 0, 0, 0, 0]] * 3


def test_uncompressed_rle_runs_down_the_columns() -> None:
    # pixels by column: (0,0) | (1,0) (0,1) | (1,1) (0,2) (1,2)
    rle = {"size": [2, 3], "counts": [1, 2, 3]}
    assert read(shape(4, rle), height=2, width=3) == [[0, 4, 0], [4, 0, 0]]
    assert read(shape(4, {"size": [2, 3], "counts": [0, 6]}), height=2, width=3) == [[4] * 3] * 2
    assert read(shape(4, {"size": [1, 1], "counts": [0, 1]}), height=1, width=1) == [[4]]


def test_an_image_without_annotations_is_background() -> None:
    assert read() == [[0] * 5] * 4


def test_the_dtype_follows_the_largest_id() -> None:
    assert CocoMask(4, 5, (shape(254, [BIG]),), NOT_READ).read().dtype == np.uint8
    mask = CocoMask(4, 5, (shape(255, [BIG]),), NOT_READ).read()
    assert mask.dtype == np.uint16 and mask.max() == 255


@pytest.mark.parametrize("seed", range(6))
def test_random_regions_are_those_of_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(1, 90)), int(random.integers(1, 90)))
    region = random.random(size) < (0.02, 0.5, 0.98)[seed % 3]
    rle = compressed(region)
    np.testing.assert_array_equal(CocoMask(*size, (shape(1, rle),), NOT_READ).read(), region)
    flat = region.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    runs = np.diff(edges, prepend=0).tolist()
    np.testing.assert_array_equal(
        CocoMask(*size, (shape(1, {"size": [*size], "counts": runs}),), NOT_READ).read(), region
    )


def test_runs_of_a_large_image() -> None:
    region = np.zeros((1500, 2000), bool)
    region[700:, 3] = region[:, 1500:] = True  # runs of more than 2^20 pixels, and shorter than the one before
    np.testing.assert_array_equal(CocoMask(1500, 2000, (shape(1, compressed(region)),), NOT_READ).read(), region)


def test_a_mask_is_small_and_survives_pickling() -> None:
    mask = CocoMask(4, 5, (shape(1, [BIG]), shape(2, [SMALL])), NOT_READ)
    data = pickle.dumps(mask)
    assert len(data) < 600
    assert pickle.loads(data) == mask and pickle.loads(data).read().tolist() == BIG_UNDER_SMALL


def test_errors_name_the_annotation() -> None:
    with pytest.raises(UserError, match=r"^annotation 5: `segmentation` is empty$"):
        read(shape(1, [SMALL]), shape(1, []))
    with pytest.raises(UserError, match=r"^annotation 5: the RLE's counts add up to 7 pixels"):
        read(shape(1, [SMALL]), shape(1, {"size": [4, 5], "counts": [3, 4]}))


def test_an_image_with_too_many_pixels_is_refused_before_its_mask_is_made() -> None:
    with pytest.raises(UserError, match=f"more than the limit of {MAX_PIXELS:,}"):
        CocoMask(10**7, 10**7, (), NOT_READ).read()
