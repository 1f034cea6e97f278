"""COCO annotations of one image as a mask of class ids: which size it has, and what lies on top where they overlap.

COCO's instances may overlap, a mask has one id per pixel. Larger areas are painted first, so that an egg on rice stays
an egg. The later of two equally large annotations lies on top, and a crowd (`iscrowd`) below. A crowd that covers
others is larger than they are, and so lies below them; a smaller one stays visible: CVAT writes what was drawn with the
brush or by SAM as a crowd. Areas are counted pixels, not the `area` in the file. Annotations of which no pixel is left
are reported.

Pixels without annotation are background, and an image without annotations is all background: COCO's images are
annotated exhaustively. The part of a polygon outside the image is cut off, as pycocotools does.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_api

from foodseg.annotations.coco_segmentation import Polygons, Rle, encode, extent, fits, parse_segmentation
from foodseg.data.image_io import MAX_PIXELS, SWAPS_SIDES, BadFile, image_kind, image_size
from foodseg.data.unread import UnreadImage
from foodseg.errors import UserError


@dataclass(frozen=True)
class CocoShape:
    """One annotation.

    Attributes:
        name: what errors call it.
        class_id: of the listing's label space, or its ignore id.
        segmentation: JSON, as in the file: the text takes less memory than parsed numbers.
    """

    name: str
    class_id: int
    crowd: bool
    segmentation: str


@dataclass(frozen=True)
class CocoMask:
    """All annotations of one image.

    Attributes:
        height, width: pixels, as in the file; None = not in the file: taken from an RLE, or else from the image.
        image: read only where nothing else gives the size, or where an RLE contradicts it.
    """

    height: int | None
    width: int | None
    shapes: tuple[CocoShape, ...]
    image: UnreadImage

    def read(self) -> np.ndarray:
        """Returns (H, W) uint8 ids, uint16 where an id is above 254; UserError names a malformed annotation."""
        return self._paint()[0]

    def read_with_hidden(self, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Returns what `read` does, and a sentence about each annotation that no pixel of the mask shows.

        Args:
            names: of the class ids.
        """
        mask, regions = self._paint()
        return mask, [
            _hidden(shape, region, mask, names)
            for shape, region in zip(self.shapes, regions, strict=True)
            if not (mask[coco_api.decode(region) > 0] == shape.class_id).any()
        ]

    def _paint(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Returns the mask, and the region of each shape as compressed RLE."""
        parsed = []
        for shape in self.shapes:
            with _called(shape):
                parsed.append(parse_segmentation(json.loads(shape.segmentation)))
        height, width = self._size(parsed)
        if height * width > MAX_PIXELS:
            raise BadFile(f"{width} x {height} pixels are more than the limit of {MAX_PIXELS:,}", "too_many_pixels")
        regions = []
        for shape, own in zip(self.shapes, parsed, strict=True):
            with _called(shape):
                regions.append(encode(own, height, width))
        areas = [int(coco_api.area(region)) for region in regions]
        largest = max((shape.class_id for shape in self.shapes), default=0)
        mask = np.zeros((height, width), np.uint8 if largest < 255 else np.uint16)
        for i in sorted(range(len(regions)), key=lambda i: (-areas[i], not self.shapes[i].crowd)):
            mask[coco_api.decode(regions[i]) > 0] = self.shapes[i].class_id
        return mask, regions

    def _size(self, parsed: Sequence[Polygons | Rle]) -> tuple[int, int]:
        """Returns (height, width) that the annotations are meant for."""
        listed = (self.height, self.width) if self.height is not None and self.width is not None else None
        rle_sizes = {own.size for own in parsed if isinstance(own, Rle) and own.size is not None}
        if listed is not None and rle_sizes <= {listed}:
            return listed
        if listed is None and len(rle_sizes) == 1:
            return rle_sizes.pop()
        data = self.image.read()
        height, width = image_size(data)
        if listed is not None:  # an RLE contradicts it: the size of the image decides
            return (height, width) if rle_sizes == {(height, width)} else listed
        corners = [extent(own) for own in parsed if not isinstance(own, Rle)]
        needed = tuple(max((corner[axis] for corner in corners), default=0.0) for axis in (1, 0))
        # polygons that exceed the image as shown, but fit it as stored, were drawn on the stored pixels
        as_stored = image_kind(data).orientation in SWAPS_SIDES and fits(needed, width, height)
        return (width, height) if as_stored and not fits(needed, height, width) else (height, width)


@contextlib.contextmanager
def _called(shape: CocoShape) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{shape.name}: {error}") from None


def _hidden(shape: CocoShape, region: dict[str, Any], mask: np.ndarray, names: Sequence[str]) -> str:
    above = Counter(mask[coco_api.decode(region) > 0].tolist()).most_common(1)
    what = f"smaller annotations cover it, mostly of {_name(above[0][0], names)}" if above else "it covers no pixel"
    return f"{shape.name} ({_name(shape.class_id, names)}) leaves no pixel: {what}"


def _name(class_id: int, names: Sequence[str]) -> str:
    return repr(names[class_id]) if class_id < len(names) else "ignored pixels"
