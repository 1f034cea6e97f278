"""A COCO `segmentation` as regions of pixels: polygons, uncompressed and compressed RLE, each in all its spellings.

Every unambiguous spelling is read: a flat list of one polygon, lists of points, numbers as text, the whole as text (as
in a table of pandas), empty polygons among others. What pycocotools would misread or crash on is refused with a
message.
"""

import ast
import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as coco_api

from foodseg.annotations.coco_values import whole_number
from foodseg.errors import UserError

MAX_OUTLINE = 10_000_000  # pixels: pycocotools walks along the outline of a polygon, at 40 bytes a pixel
_MARGIN = 0.05  # share of a side that an inexact polygon may exceed its image by
_NORMALISED_FROM = 8  # pixels a side: in larger images, a polygon within one pixel is taken for normalised coordinates


@dataclass(frozen=True)
class Rle:
    """Runs of pixels down the columns, of 0 first. `size` is (height, width); None = not in the file."""

    size: tuple[int, int] | None
    runs: tuple[int, ...]
    text: str | None  # the runs in COCO's compressed form, where they came so


Polygons = tuple[tuple[float, ...], ...]  # each x1, y1, x2, y2, ...


def parse_segmentation(value: Any) -> Polygons | Rle:
    """Parses a `segmentation` as far as possible without the size of the image.

    Raises:
        UserError: it is neither polygons nor an RLE, or a part of it is malformed.
    """
    value = _from_text(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, list):
        polygons = [_numbers(polygon) for polygon in _polygons(value) if polygon != []]
        if not polygons:
            raise UserError("`segmentation` is empty")
        return tuple(polygons)
    if isinstance(value, dict) and "counts" in value:
        return _rle(value)
    raise UserError("`segmentation` is neither a list of polygons nor an RLE with `counts`")


def is_empty(value: Any) -> bool:
    """True where a `segmentation` says nothing: null, NaN, "", [], [[]], {}, or such text."""
    if isinstance(value, str) and len(value) <= 20:
        try:
            value = _from_text(value)
        except UserError:
            return not value.strip()
    return not value or value == [[]] or (isinstance(value, float) and math.isnan(value))


def extent(polygons: Polygons) -> tuple[float, float]:
    """Returns the largest x and y."""
    return max(max(ring[::2]) for ring in polygons), max(max(ring[1::2]) for ring in polygons)


def size_at_least(value: Any) -> tuple[float, float]:
    """Returns the (height, width) that polygons need or an RLE has, without validation; 0 = unknown."""
    try:
        if isinstance(value, dict):
            return float(value["size"][0]), float(value["size"][1])
        rings = value if isinstance(value[0], list) else [value]
        return float(max(max(ring[1::2]) for ring in rings)), float(max(max(ring[::2]) for ring in rings))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError):
        return 0.0, 0.0


def outline_length(polygon: Sequence[float]) -> float:
    """Returns the number of pixels along the outline of a polygon x1, y1, x2, y2, ..."""
    xs, ys = polygon[::2], polygon[1::2]
    return sum(max(abs(xs[i] - xs[i - 1]), abs(ys[i] - ys[i - 1])) for i in range(len(xs)))


def fits(needed: Sequence[float], height: int, width: int) -> bool:
    """True where a region that needs `needed` fits an image of that size; polygons may exceed it a little."""
    return needed[0] <= height + max(1, _MARGIN * height) and needed[1] <= width + max(1, _MARGIN * width)


def encode(parsed: Polygons | Rle, height: int, width: int) -> dict[str, Any]:
    """Returns the region as compressed RLE for pycocotools, in an image of that size.

    Raises:
        UserError: the RLE has another size; a polygon lies outside, is too long or looks like normalised coordinates.
    """
    if isinstance(parsed, Rle):
        if parsed.size not in (None, (height, width)):
            raise UserError(
                f"the RLE has size {list(parsed.size or ())}, the image [{height}, {width}] (height, width)"
            )
        if sum(parsed.runs) != height * width:
            raise UserError(f"the RLE's counts add up to {sum(parsed.runs)} pixels, the image has {height * width}")
        if parsed.text is not None:
            return {"size": [height, width], "counts": parsed.text}
        return coco_api.frPyObjects({"size": [height, width], "counts": list(parsed.runs)}, height, width)
    for polygon in parsed:
        _check_polygon(polygon, height, width)
    right, bottom = extent(parsed)
    if max(right, bottom) <= 1 and min(height, width) >= _NORMALISED_FROM:
        raise UserError(
            f"all coordinates of its polygons are between 0 and 1, as shares of the image do; COCO has pixels: "
            f"multiply x by {width} and y by {height}"
        )
    return coco_api.merge(coco_api.frPyObjects([list(polygon) for polygon in parsed], height, width))


def _from_text(value: Any) -> Any:
    """Parses lists and objects that a table holds as text, in the spelling of JSON or of Python."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise UserError(f"`segmentation` is a text that spells no list or RLE: {value[:40]!r}") from None


def _polygons(value: list[Any]) -> list[Any]:
    """Returns the list of polygons that `value` means, each a flat list of coordinates."""
    if value and not any(isinstance(part, list) for part in value):
        return [value]  # one polygon without the outer list (VIA writes it so)
    if len(value) >= 3 and all(isinstance(part, list) and len(part) == 2 for part in value) and _flat(value):
        return [[number for point in value for number in point]]  # one polygon as a list of points
    return [
        [number for point in part for number in point]
        if isinstance(part, list) and part and all(isinstance(p, list) and len(p) == 2 for p in part) and _flat(part)
        else part
        for part in value
    ]


def _flat(points: list[list[Any]]) -> bool:
    return not any(isinstance(number, list) for point in points for number in point)


def _numbers(polygon: Any) -> tuple[float, ...]:
    if not isinstance(polygon, list):
        raise UserError("a polygon is a list of numbers x1, y1, x2, y2, ...; this one holds something else")
    numbers = tuple(_number(value) for value in polygon)
    if len(numbers) % 2:
        raise UserError(f"a polygon has an even number of coordinates, this one has {len(numbers)}")
    if len(numbers) < 6:
        raise UserError(f"a polygon has at least 3 points, this one has {len(numbers) // 2}")
    return numbers


def _number(value: Any) -> float:
    number = math.nan
    if type(value) in (int, float, str):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    if not math.isfinite(number):
        found = f"{value!r}"[:40]
        raise UserError(f"a polygon is a list of numbers x1, y1, x2, y2, ...; this one holds something else: {found}")
    return number


def _check_polygon(polygon: tuple[float, ...], height: int, width: int) -> None:
    xs, ys = polygon[::2], polygon[1::2]
    if max(xs) < 0 or min(xs) > width or max(ys) < 0 or min(ys) > height:
        raise UserError(f"a polygon lies wholly outside the image of {width} x {height}, from ({xs[0]:g}, {ys[0]:g})")
    length = outline_length(polygon)
    if length > MAX_OUTLINE:
        raise UserError(f"the outline of a polygon is {length:.3g} pixels long, more than the limit of {MAX_OUTLINE:,}")


def _rle(value: dict[str, Any]) -> Rle:
    size, counts = value.get("size"), value["counts"]
    if isinstance(counts, bytes):  # as pycocotools returns it, written as text
        counts = counts.decode("latin-1")
    sides: list[int] | None = None
    if size is not None:
        found = [whole_number(side) for side in size] if isinstance(size, list | tuple) else []
        sides = [side for side in found if side is not None and side > 0]
        if len(found) != 2 or len(sides) != 2:
            raise UserError(f"the RLE's `size` should be [height, width], found {str(size)[:40]}")
    runs = _run_lengths(counts) if isinstance(counts, str) else counts
    if isinstance(runs, list) and not all(type(run) is int for run in runs):
        runs = [whole_number(run) for run in runs]
    if not isinstance(runs, list) or not all(run is not None and run >= 0 for run in runs):
        raise UserError("the RLE's `counts` should be numbers from 0, or such numbers as COCO's compressed text")
    return Rle((sides[0], sides[1]) if sides else None, tuple(runs), counts if isinstance(counts, str) else None)


def _run_lengths(counts: str) -> Sequence[int] | None:
    """Returns the run lengths of COCO's compressed RLE; None if it is invalid (pycocotools, maskApi.c, rleFrString).

    pycocotools does not check the text: it would write such runs beyond the end of the mask.
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
