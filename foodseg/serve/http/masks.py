"""Encodes regions for the API: COCO RLE, polygons, or a PNG label map, at the size of the client's own image.

The models see a smaller copy, so every region is enlarged: pixel (y, x) of the client's image takes the value at
(y * h // H, x * w // W) of the map (nearest neighbour). Runs and corners are scaled as numbers, so that twelve
megapixels cost no more than one; only a PNG is rendered at full size.

Shape letters: h, w of a map from a model; H, W of the client's image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco

from foodseg.serve.http.schema import Rle

TOLERANCE = 0.5  # pixels of the model's map by which a polygon may deviate from the border of its region


@dataclass(frozen=True, eq=False)
class Runs:
    """The pixels of one region, counted down the columns from left to right, as COCO does.

    starts, ends: (n,) int64, ascending; a run is all pixels from its start to before its end, and no two runs touch.
    """

    starts: np.ndarray
    ends: np.ndarray

    @property
    def pixels(self) -> int:
        """Returns the number of pixels in the region."""
        return int((self.ends - self.starts).sum())


def label_runs(ids: np.ndarray, height: int, width: int) -> Iterator[tuple[int, Runs]]:
    """Yields each id of a label map (h, w) with its runs in an image of height x width, ascending by id."""
    starts, ends, labels = _enlarged_runs(ids, height, width)
    order = np.argsort(labels, kind="stable")  # the runs of one id stay ascending
    found, firsts = np.unique(labels[order], return_index=True)
    for label, part in zip(found.tolist(), np.split(order, firsts[1:]), strict=True):
        yield label, _merged(starts[part], ends[part])


def mask_runs(mask: np.ndarray, height: int, width: int) -> Runs:
    """Returns the runs of a (h, w) bool mask in an image of height x width."""
    starts, ends, labels = _enlarged_runs(mask, height, width)
    return _merged(starts[labels], ends[labels])


def rle(runs: Runs, height: int, width: int) -> Rle:
    """Returns the region in COCO's compressed run-length code."""
    # alternating lengths of outside and inside, from the first pixel to the last
    borders = np.stack([runs.starts, runs.ends], axis=1).ravel()
    counts = np.diff(borders, prepend=0, append=height * width)
    if borders.size and counts[-1] == 0:
        counts = counts[:-1]
    code = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return Rle(size=(height, width), counts=code["counts"].decode("ascii"))


def from_rle(code: Rle) -> np.ndarray:
    """Returns the (H, W) bool mask of a run-length code."""
    return coco.decode({"size": list(code.size), "counts": code.counts}).astype(bool)


def polygons(mask: np.ndarray, height: int, width: int) -> list[list[float]]:
    """Returns the outlines of a (h, w) bool mask in an image of height x width: rings of x0, y0, x1, y1, ...

    A bridge of zero width connects a hole to its ring, so that a renderer without support for holes fills the right
    pixels (even-odd or winding). Borders are exact within TOLERANCE of the map's pixels. A ring has 3 points at least.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    # OpenCV's outlines go through the centres of pixels. On this grid pixel (y, x) is all nodes from (2y, 2x) to
    # (2y + 2, 2x + 2), so that its centres with even numbers are the pixel's own corners.
    grid = cv2.resize(part, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    grid = cv2.copyMakeBorder(grid, 0, 1, 0, 1, cv2.BORDER_CONSTANT, value=0)
    grid = cv2.dilate(grid, np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, tree = cv2.findContours(grid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = {index: _simplified(ring) for index, ring in enumerate(contours) if tree[0, index, 3] < 0}
    for index, hole in enumerate(contours):
        outer = int(tree[0, index, 3])
        if outer >= 0:
            rings[outer] = _bridged(rings[outer], _simplified(hole))
    scale = np.array([width / mask.shape[1], height / mask.shape[0]])
    found = []
    for ring in rings.values():
        corners = (ring / 2 + (left, top)) * scale
        found.append(corners.round(2).ravel().tolist())
    return found


def enlarged(ids: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a map (h, w) of any dtype at height x width, consistent with the runs and polygons."""
    if ids.shape == (height, width):
        return ids
    rows = np.arange(height) * ids.shape[0] // height
    columns = np.arange(width) * ids.shape[1] // width
    return ids[rows][:, columns]


def box(mask: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """Returns x, y, width, height of the smallest box around a (h, w) bool mask, in an image of height x width."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    down, across = _edges(mask.shape[0], height), _edges(mask.shape[1], width)
    x, y = int(across[columns[0]]), int(down[rows[0]])
    return x, y, int(across[columns[-1] + 1]) - x, int(down[rows[-1] + 1]) - y


def _enlarged_runs(values: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns starts and ends (n,) int64 and values (n,) of runs of equal pixels; each stays within its column."""
    small_height, small_width = values.shape
    flat = np.ascontiguousarray(values.T).ravel()
    changes = np.empty(flat.size, bool)
    changes[0] = True
    np.not_equal(flat[1:], flat[:-1], out=changes[1:])
    changes[::small_height] = True
    firsts = np.flatnonzero(changes)
    lasts = np.append(firsts[1:], flat.size) - 1
    down, across = _edges(small_height, height), _edges(small_width, width)
    column = firsts // small_height
    begins, ends = down[firsts % small_height], down[lasts % small_height + 1]
    # a column of the map becomes several, or none where the image is the smaller one
    copies = np.diff(across)[column]
    run = np.repeat(np.arange(firsts.size), copies)
    which = np.arange(run.size) - np.repeat(np.cumsum(copies) - copies, copies)
    offset = (across[column[run]] + which) * height
    starts, ends = offset + begins[run], offset + ends[run]
    order = np.argsort(starts, kind="stable")
    order = order[ends[order] > starts[order]]
    return starts[order], ends[order], flat[firsts][run][order]


def _edges(small: int, large: int) -> np.ndarray:
    """Returns (small + 1,) int64: where each of `small` pixels begins among `large` ones, and the end."""
    return -(np.arange(small + 1, dtype=np.int64) * -large // small)


def _merged(starts: np.ndarray, ends: np.ndarray) -> Runs:
    """Merges runs that touch: one that ends at the foot of a column with one at the head of the next."""
    if not starts.size:
        return Runs(starts, ends)
    apart = starts[1:] != ends[:-1]
    return Runs(starts[np.append(True, apart)], ends[np.append(apart, True)])


def _simplified(ring: np.ndarray) -> np.ndarray:
    """Returns (n, 2) corners of a ring on the grid, n >= 3, with the stairs of single pixels smoothed."""
    corners = cv2.approxPolyDP(ring, 2 * TOLERANCE, closed=True)
    return (corners if len(corners) > 2 else ring).reshape(-1, 2)


def _bridged(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Returns one ring that leads to the hole, around it, and back the same way."""
    near = int(np.abs(hole - ring[0]).sum(1).argmin())
    return np.concatenate([ring, ring[:1], np.roll(hole, -near, axis=0), hole[near : near + 1]])
