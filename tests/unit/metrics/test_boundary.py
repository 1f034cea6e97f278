"""Boundary IoU by hand, against the erosion of the paper class by class, and against a slow loop."""

import math

import cv2
import numpy as np
import pytest

from foodseg.errors import UserError
from foodseg.metrics.boundary import (
    boundary_counts,
    boundary_distance,
    boundary_scores,
    merge_boundary,
)
from foodseg.metrics.per_image import ImageCounts

IGNORE = 255


def random_masks(seed: int, height: int, width: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of blobs, alike but not the same, the first with an ignored patch."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, classes, (-(-height // 6), -(-width // 6)), dtype=np.uint8)
    truth = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    prediction = np.roll(truth, rng.integers(0, 3), axis=rng.integers(0, 2)).copy()
    prediction[rng.random(truth.shape) < 0.02] = rng.integers(0, classes)
    truth[height // 3 : height // 2, : width // 3] = IGNORE
    return truth, prediction


def of_the_paper(mask: np.ndarray, distance: int) -> np.ndarray:
    """The boundary region of a binary mask, step by step as Cheng et al. define it."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    for _ in range(distance):
        padded = cv2.erode(padded, np.ones((3, 3), np.uint8))
    return mask & (padded[1:-1, 1:-1] == 0)


def slow_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """The same pixel by pixel: something else, or nothing, stands in the square around the pixel."""
    found = np.zeros(mask.shape, bool)
    for y, x in zip(*np.nonzero(mask), strict=True):
        square = [(y + dy, x + dx) for dy in range(-distance, distance + 1) for dx in range(-distance, distance + 1)]
        inside = [(v, u) for v, u in square if 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1]]
        found[y, x] = len(inside) < len(square) or not all(mask[v, u] for v, u in inside)
    return found


def expected(truth, prediction, classes, boundary) -> list[list[int]]:
    counted = truth != IGNORE
    distance = max(1, round(0.02 * math.hypot(*truth.shape)))
    rows = []
    for index in range(classes):
        regions = [boundary((mask == index) & counted, distance) for mask in (truth, prediction)]
        row = [int((regions[0] & regions[1]).sum()), *(int(region.sum()) for region in regions)]
        if any(row):
            rows.append([index, *row])
    return rows


@pytest.mark.parametrize("size", [(60, 80), (1, 1), (1, 50), (50, 1), (2, 2), (97, 31)])
@pytest.mark.parametrize("seed", range(3))
def test_as_in_the_paper(seed, size):
    truth, prediction = random_masks(seed, *size)
    assert boundary_counts(truth, prediction, 4, IGNORE).tolist() == expected(truth, prediction, 4, of_the_paper)


def test_as_a_slow_loop_at_a_distance_of_three_pixels():
    truth, prediction = random_masks(5, 90, 120)
    assert boundary_distance(90, 120) == 3
    assert boundary_counts(truth, prediction, 4, IGNORE).tolist() == expected(truth, prediction, 4, slow_boundary)


def test_seven_by_seven_by_hand():
    # d = 1. The truth's square of 3 x 3 has 8 boundary pixels, the prediction's, one to the right, as many. They share
    # a strip of 3 x 2: all 6 are boundary in one of them, 4 in both (the middle of each square is not).
    truth, prediction = np.zeros((2, 7, 7), np.uint8)
    truth[2:5, 2:5] = 1
    prediction[2:5, 3:6] = 1
    rows = {row[0]: row[1:] for row in boundary_counts(truth, prediction, 2, IGNORE).tolist()}
    assert rows[1] == [4, 8, 8]
    # background: 24 pixels at the image's border, and the ring of 16 around the square
    assert rows[0][1] == 40 and rows[0][2] == 24 + 16 - 5  # one side of the ring lies on the border already


def test_ignored_pixels_leave_both_masks():
    truth = np.ones((40, 40), np.uint8)
    truth[10:30, 10:30] = IGNORE
    noise = np.random.default_rng(0).integers(0, 3, truth.shape, dtype=np.uint8)
    prediction = np.where(truth == IGNORE, noise, truth)
    ((index, both, in_truth, in_prediction),) = boundary_counts(truth, prediction, 3, IGNORE).tolist()
    assert index == 1 and both == in_truth == in_prediction > 0


def test_all_ignored_and_nothing_of_a_class():
    truth, prediction = np.full((5, 5), IGNORE, np.uint8), np.ones((5, 5), np.uint8)
    assert boundary_counts(truth, prediction, 3, IGNORE).shape == (0, 4)


def test_sixteen_bit_ids_and_small_predictions():
    """256 ids: predictions fit into 8 bits, the ignore id does not."""
    truth = np.full((20, 20), 65535, np.uint16)
    truth[:10] = 255
    prediction = np.full((20, 20), 255, np.uint8)
    ((index, both, in_truth, in_prediction),) = boundary_counts(truth, prediction, 256, 65535).tolist()
    assert index == 255 and both == in_truth == in_prediction == 2 * 20 + 2 * 8  # d = 1


@pytest.mark.parametrize(("size", "distance"), [((1, 1), 1), ((3000, 4000), 100), ((512, 512), 14), ((96, 72), 2)])
def test_distance(size, distance):
    assert boundary_distance(*size) == distance


def image(name: str, rows: list[list[int]] | None) -> ImageCounts:
    boundary = None if rows is None else np.array(rows, np.int64).reshape(-1, 4)
    return ImageCounts.from_matrix(name, name, np.zeros((4, 4), np.int64), boundary)


def test_scores_by_hand():
    # id 0: 6 / (10 + 8 - 6) = 1/2; id 1: 3 / (4 + 5 - 3) = 1/2; id 2: 0 of 2; id 3 is predicted only
    images = [image("a", [[0, 4, 6, 5], [1, 3, 4, 5]]), image("b", [[0, 2, 4, 3], [2, 0, 2, 0], [3, 0, 0, 7]])]
    counts = merge_boundary(images, 4)
    assert counts.tolist() == [[6, 10, 8], [3, 4, 5], [0, 2, 0], [0, 0, 7]]
    result = boundary_scores(counts, subsets={"some": [1], "none": [3]})
    assert result.classes == (0.5, 0.5, 0.0, None)
    assert result.miou == pytest.approx(1 / 3) and result.miou_foreground == 0.25
    assert (result.subsets["some"].miou, result.subsets["some"].ids) == (0.5, 2)
    assert (result.subsets["none"].miou, result.subsets["none"].ids) == (0.5, 1)
    unseen = boundary_scores(counts, trained_ids=[0, 2, 3])
    assert unseen.classes == (0.5, 0.0, 0.0, None) and unseen.miou == pytest.approx(1 / 6)


def test_nothing_to_score():
    with pytest.raises(UserError, match="nothing to score"):
        boundary_scores(np.array([[0, 0, 4], [0, 0, 0]]))
    assert boundary_scores(np.array([[1, 2, 2], [0, 0, 0]])).miou_foreground is None


def test_images_without_boundary_counts_are_refused():
    with pytest.raises(UserError, match=r"'plain' has no boundary counts: only images\.parquet has them"):
        merge_boundary([image("plain", None)], 4)
