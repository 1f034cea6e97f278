"""Regions at the size of the client's image, compared with pycocotools on maps that are really enlarged."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from foodseg.serve.http.masks import box, enlarged, from_rle, label_runs, mask_runs, polygons, rle

SIZES = [(4, 4), (8, 8), (9, 7), (13, 4), (40, 31), (3, 9), (1, 1)]


def _ids(seed: int, height: int = 4, width: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint8)


def _blobs(seed: int, height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 3) > 0.02


def test_runs_by_hand() -> None:
    # column by column: 0 0 | 1 1 | 1 0
    ids = np.array([[0, 1, 1], [0, 1, 0]], np.uint8)
    found = {index: (runs.starts.tolist(), runs.ends.tolist()) for index, runs in label_runs(ids, 2, 3)}
    assert found == {0: ([0, 5], [2, 6]), 1: ([2], [5])}


def test_enlarged_runs_by_hand() -> None:
    # twice as high and wide, the one pixel of id 7 is 2 x 2: rows 2 and 3 of columns 0 and 1, each 4 high
    ids = np.array([[0, 0], [7, 0]], np.uint8)
    runs = dict(label_runs(ids, 4, 4))[7]
    assert (runs.starts.tolist(), runs.ends.tolist(), runs.pixels) == ([2, 6], [4, 8], 4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_rle_is_that_of_pycocotools(size: tuple[int, int], seed: int) -> None:
    ids = _ids(seed)
    full = enlarged(ids, *size)
    found = dict(label_runs(ids, *size))
    assert set(found) == set(np.unique(full).tolist())
    for index, runs in found.items():
        expected = coco.encode(np.asfortranarray(full == index, dtype=np.uint8))
        code = rle(runs, *size)
        assert (code.size, code.counts) == (size, expected["counts"].decode())
        assert runs.pixels == int(coco.area(expected)) == int((full == index).sum())
        assert (from_rle(code) == (full == index)).all()


@pytest.mark.parametrize("fill", [False, True])
def test_masks_without_an_edge(fill: bool) -> None:
    runs = mask_runs(np.full((3, 5), fill), 6, 10)
    assert runs.pixels == 60 * fill
    assert (from_rle(rle(runs, 6, 10)) == fill).all()


@pytest.mark.parametrize("size", SIZES)
def test_mask_runs_and_box(size: tuple[int, int]) -> None:
    mask = np.zeros((4, 4), bool)
    mask[1:3, 2] = True
    full = enlarged(mask, *size)
    code = coco.encode(np.asfortranarray(full, dtype=np.uint8))
    assert rle(mask_runs(mask, *size), *size).counts == code["counts"].decode()
    if full.any():
        assert list(box(mask, *size)) == coco.toBbox(code).tolist()


def test_enlarging_takes_the_nearest_pixel() -> None:
    assert enlarged(np.array([[1, 2]], np.uint16), 2, 5).tolist() == [[1, 1, 1, 2, 2]] * 2


def _decoded(rings: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco.decode(coco.merge(coco.frPyObjects(rings, height, width))).astype(bool)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


@pytest.mark.parametrize("at", [(0, 0), (7, 9), (3, 4)])
def test_a_rectangle_as_polygon(at: tuple[int, int]) -> None:
    top, left = at
    mask = np.zeros((10, 12), bool)
    mask[top : top + 3, left : left + 3] = True
    rings = polygons(mask, 10, 12)
    assert len(rings) == 1
    assert (_decoded(rings, 10, 12) == mask).all()


@pytest.mark.parametrize("size", [(64, 80), (128, 160), (200, 333)])
@pytest.mark.parametrize("seed", range(4))
def test_polygons_cover_their_region(size: tuple[int, int], seed: int) -> None:
    mask = _blobs(seed, 64, 80)
    rings = polygons(mask, *size)
    assert all(len(ring) >= 6 and len(ring) % 2 == 0 for ring in rings)
    full = enlarged(mask, *size)
    assert _iou(_decoded(rings, *size), full) > 0.93
    corners = np.concatenate(rings).reshape(-1, 2)
    assert (corners >= 0).all() and (corners <= (size[1], size[0])).all()


def test_a_hole_stays_open() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:55, 5:55] = True
    mask[20:40, 15:30] = False
    mask[25:30, 40:50] = False
    mask[28:32, 20:25] = True  # an island in the first hole is a region of its own
    rings = polygons(mask, 60, 60)
    assert len(rings) == 2
    found = _decoded(rings, 60, 60)
    assert _iou(found, mask) > 0.97
    assert not found[22:26, 17:28].any() and found[29:31, 21:24].all()
    # a canvas fills by winding number, which takes opposite directions for a hole
    assert sum(_area(ring) for ring in rings) == pytest.approx(mask.sum(), rel=0.03)


def _area(ring: list[float]) -> float:
    x, y = np.array(ring[::2]), np.array(ring[1::2])
    return abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_thin_regions_have_an_area(shape: tuple[int, int]) -> None:
    mask = np.zeros((9, 9), bool)
    mask[2 : 2 + shape[0], 3 : 3 + shape[1]] = True
    (ring,) = polygons(mask, 9, 9)
    assert (_decoded([ring], 9, 9) == mask).all()


def test_nothing_has_no_polygon() -> None:
    assert polygons(np.zeros((4, 4), bool), 8, 8) == []
    assert box(np.zeros((4, 4), bool), 8, 8) == (0, 0, 0, 0)
