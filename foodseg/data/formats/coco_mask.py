"""COCO annotations of one picture as a mask of class ids: polygons, uncompressed and compressed RLE, crowds, overlaps.

COCO's instances may overlap, a mask has one id per pixel. Crowds (`iscrowd`) are painted first and so lie below
everything; then the rest, larger areas first, so that an egg on rice stays an egg; of two that are equally large the
later annotation lies on top. Areas are counted pixels, not the `area` that the file gives. Pixels without annotation
are background, and a picture without annotations is background throughout: COCO's images are annotated exhaustively.
What of a polygon lies outside the picture is cut off: pycocotools rasterises it so.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_api

from foodseg.data.sample import MAX_PIXELS, BadFile
from foodseg.errors import UserError

MAX_OUTLINE = 10_000_000  # pixels: pycocotools walks along the outline of a polygon, at 40 bytes a pixel


@dataclass(frozen=True)
class CocoShape:
    """One annotation.

    Attributes:
        name: what errors call it.
        class_id: of the listing's label space.
        segmentation: JSON, as in the file: the text is a fraction of the size of the numbers.
    """

    name: str
    class_id: int
    crowd: bool
    segmentation: str


@dataclass(frozen=True)
class CocoMask:
    """All annotations of one picture of `height` x `width` pixels."""

    height: int
    width: int
    shapes: tuple[CocoShape, ...]

    def read(self) -> np.ndarray:
        """Returns (H, W) uint8 ids, uint16 where an id is above 254; UserError names a malformed annotation."""
        if self.height * self.width > MAX_PIXELS:
            sentence = f"{self.width} x {self.height} pixels are more than the limit of {MAX_PIXELS:,}"
            raise BadFile(sentence, "too_many_pixels")
        regions = []
        for shape in self.shapes:
            try:
                region = encode_segmentation(json.loads(shape.segmentation), self.height, self.width)
            except UserError as error:
                raise UserError(f"{shape.name}: {error}") from None
            regions.append((not shape.crowd, -int(coco_api.area(region)), shape.class_id, region))
        largest = max((shape.class_id for shape in self.shapes), default=0)
        mask = np.zeros((self.height, self.width), np.uint8 if largest < 255 else np.uint16)
        for _, _, class_id, region in sorted(regions, key=lambda found: found[:2]):
            mask[coco_api.decode(region) > 0] = class_id
        return mask


def encode_segmentation(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Returns a `segmentation` in any of COCO's three forms as compressed RLE, for pycocotools.

    Raises:
        UserError: what pycocotools would take for something else, or crash on.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            raise UserError("`segmentation` is empty")
        for polygon in segmentation:
            _check_polygon(polygon, height, width)
        return coco_api.merge(coco_api.frPyObjects(segmentation, height, width))
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise UserError("`segmentation` is neither a list of polygons nor an RLE with `counts`")
    if segmentation.get("size") != [height, width]:
        raise UserError(f"the RLE has size {segmentation.get('size')}, the picture [{height}, {width}] (height, width)")
    counts = segmentation["counts"]
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise UserError("the RLE's `counts` should be numbers from 0, or such numbers as COCO's compressed text")
    if sum(runs) != height * width:
        raise UserError(f"the RLE's counts add up to {sum(runs)} pixels, the picture has {height * width}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return coco_api.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list) or not all(_is_number(value) for value in polygon):
        raise UserError("a polygon is a list of numbers x1, y1, x2, y2, ...; this one holds something else")
    if len(polygon) % 2:
        raise UserError(f"a polygon has an even number of coordinates, this one has {len(polygon)}")
    if len(polygon) < 6:
        raise UserError(f"a polygon has at least 3 points, this one has {len(polygon) // 2}")
    xs, ys = ([float(value) for value in polygon[axis::2]] for axis in (0, 1))
    if max(xs) < 0 or min(xs) > width or max(ys) < 0 or min(ys) > height:
        raise UserError(f"a polygon lies wholly outside the picture of {width} x {height}, from ({xs[0]:g}, {ys[0]:g})")
    length = sum(max(abs(xs[i] - xs[i - 1]), abs(ys[i] - ys[i - 1])) for i in range(len(xs)))
    if length > MAX_OUTLINE:
        raise UserError(f"the outline of a polygon is {length:.3g} pixels long, more than the limit of {MAX_OUTLINE:,}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # False for nan, inf and 10 ** 400


def _run_lengths(counts: str) -> Sequence[int] | None:
    """Returns the run lengths of COCO's compressed RLE, None if it is none (pycocotools, maskApi.c, rleFrString).

    pycocotools believes the text: its runs would be written beyond the end of the mask.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    return None if shift else runs
