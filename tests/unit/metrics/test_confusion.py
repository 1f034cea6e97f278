"""The scores against numbers worked out by hand, and per class against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from foodseg.errors import UserError
from foodseg.metrics.confusion import confusion, scores

X = 255  # ignore
NAMES = ["background", "rice", "tofu"]

# name: truth, prediction, the non-zero cells {(truth, prediction): pixels}
MASKS = {
    "all_right": (
        [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]],
        [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2], [2, 2, 2, 2]],
        {(0, 0): 4, (1, 1): 4, (2, 2): 8},
    ),
    "mixed": (
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 2], [0, 0, 2, 2]],
        [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 0, 2, 0]],
        {(0, 0): 8, (0, 1): 1, (1, 1): 3, (1, 2): 1, (2, 2): 2, (2, 0): 1},
    ),
    "empty_class": (
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]],
        {(0, 0): 12, (1, 1): 3, (1, 0): 1},
    ),
    "absent_class_predicted": (
        [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
        [[0, 0, 0, 2], [0, 0, 0, 2], [1, 1, 1, 1], [1, 1, 1, 1]],
        {(0, 0): 6, (0, 2): 2, (1, 1): 8},
    ),
    "some_ignored": (
        [[X, X, 0, 0], [X, 1, 1, 0], [X, 1, 1, 0], [X, X, X, X]],
        [[2, 2, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [2, 2, X, X]],
        {(0, 0): 3, (0, 1): 1, (1, 1): 4},
    ),
    "all_ignored": (
        [[X] * 4] * 4,
        [[0, 1, 2, X]] * 4,
        {},
    ),
    "one_pixel": ([[2]], [[1]], {(2, 1): 1}),
    "one_row": ([[0, 1, 1, X, 2, 2]], [[0, 1, 0, 0, 2, 2]], {(0, 0): 1, (1, 1): 1, (1, 0): 1, (2, 2): 2}),
    "no_pixels": (np.zeros((0, 4)), np.zeros((0, 4)), {}),
}

# name: miou, miou_foreground, miou_union, macc, aacc, iou per class
HAND = {
    "all_right": (1, 1, 1, 1, 1, [1, 1, 1]),
    "mixed": (
        (8 / 10 + 3 / 5 + 2 / 4) / 3,
        (3 / 5 + 2 / 4) / 2,
        (8 / 10 + 3 / 5 + 2 / 4) / 3,
        (8 / 9 + 3 / 4 + 2 / 3) / 3,
        13 / 16,
        [8 / 10, 3 / 5, 2 / 4],
    ),
    "empty_class": (
        (12 / 13 + 3 / 4) / 2,
        3 / 4,
        (12 / 13 + 3 / 4) / 2,
        (1 + 3 / 4) / 2,
        15 / 16,
        [12 / 13, 3 / 4, None],
    ),
    "absent_class_predicted": ((6 / 8 + 1) / 2, 1, (6 / 8 + 1 + 0) / 3, (6 / 8 + 1) / 2, 14 / 16, [6 / 8, 1, None]),
    "some_ignored": ((3 / 4 + 4 / 5) / 2, 4 / 5, (3 / 4 + 4 / 5) / 2, (3 / 4 + 1) / 2, 7 / 8, [3 / 4, 4 / 5, None]),
    "one_pixel": (0, 0, 0, 0, 0, [None, None, 0]),
    "one_row": (
        (1 / 2 + 1 / 2 + 1) / 3,
        (1 / 2 + 1) / 2,
        (1 / 2 + 1 / 2 + 1) / 3,
        (1 + 1 / 2 + 1) / 3,
        4 / 5,
        [1 / 2, 1 / 2, 1],
    ),
}


def dense(cells: dict[tuple[int, int], int], classes: int = 3) -> np.ndarray:
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for cell, pixels in cells.items():
        matrix[cell] = pixels
    return matrix


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("name", MASKS)
def test_confusion_by_hand(name, dtype):
    truth, prediction, cells = MASKS[name]
    matrix = confusion(np.array(truth, dtype), np.array(prediction, dtype), 3, X)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, dense(cells))


@pytest.mark.parametrize("name", HAND)
def test_scores_by_hand(name):
    miou, foreground, union, macc, aacc, ious = HAND[name]
    result = scores(dense(MASKS[name][2]), NAMES)
    assert result.miou == pytest.approx(miou)
    assert result.miou_foreground == pytest.approx(foreground)
    assert result.miou_union == pytest.approx(union)
    assert result.macc == pytest.approx(macc)
    assert result.aacc == pytest.approx(aacc)
    assert [row.iou for row in result.classes] == [None if iou is None else pytest.approx(iou) for iou in ious]


def test_16_bit_ids_do_not_overflow():
    truth = np.array([[299, 299, 65535], [0, 298, 299]], np.uint16)
    prediction = np.array([[299, 1, 65535], [0, 299, 299]], np.uint16)
    matrix = confusion(truth, prediction, 300, 65535)
    np.testing.assert_array_equal(matrix, dense({(299, 299): 2, (299, 1): 1, (0, 0): 1, (298, 299): 1}, 300))


def test_a_class_inside_the_range_can_be_ignored():
    matrix = confusion(np.array([[0, 1, 2]]), np.array([[1, 1, 0]]), 3, ignore_id=0)
    np.testing.assert_array_equal(matrix, dense({(1, 1): 1, (2, 0): 1}))


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        ([[0, 3]], [[0, 0]], r"truth holds id 3, valid ids are 0 to 2"),
        ([[0, 0]], [[0, 7]], r"prediction holds id 7, valid ids are 0 to 2"),
        ([[0, X]], [[0, 7]], r"prediction holds id 7"),
        ([[0, 1]], [[0, X]], r"prediction holds id 255"),
        ([[0, -1]], [[0, 0]], r"truth holds id -1"),
        ([[0, 1]], [[0, 1, 1]], r"same shape, found \(1, 2\) and \(1, 3\)"),
        ([[0, 1]], [[0.0, 1.0]], r"prediction must hold integer class ids, found dtype float64"),
    ],
)
def test_confusion_refuses(truth, prediction, message):
    with pytest.raises(UserError, match=message):
        confusion(np.array(truth), np.array(prediction), 3, X)


def test_per_class_as_torchmetrics():
    rng = np.random.default_rng(3)
    classes = 12
    truth = rng.integers(0, classes - 1, size=(3, 50, 60))  # the last id never occurs in the truth
    truth[rng.random(truth.shape) < 0.2] = X
    prediction = np.where(
        rng.random(truth.shape) < 0.5, np.where(truth == X, 0, truth), rng.integers(0, classes, truth.shape)
    )
    matrix = sum(confusion(t, p, classes, X) for t, p in zip(truth, prediction, strict=True))
    result = scores(matrix, [str(index) for index in range(classes)])

    setting = {"num_classes": classes, "average": "none", "ignore_index": X}
    pair = torch.from_numpy(prediction), torch.from_numpy(truth)
    iou, acc = MulticlassJaccardIndex(**setting)(*pair), MulticlassAccuracy(**setting)(*pair)
    np.testing.assert_allclose([row.iou for row in result.classes[:-1]], iou[:-1], atol=1e-6)
    np.testing.assert_allclose([row.acc for row in result.classes[:-1]], acc[:-1], atol=1e-6)
    assert result.classes[-1].iou is None and result.classes[-1].acc is None
    assert result.classes[-1].predicted_pixels > 0
    assert result.miou == pytest.approx(float(iou[:-1].mean()), abs=1e-6)
    assert result.miou_union == pytest.approx(float(iou.mean()), abs=1e-6)
    assert result.macc == pytest.approx(float(acc[:-1].mean()), abs=1e-6)


@pytest.mark.parametrize("cuts", [[25], [1, 2, 49], [10, 20, 30, 40]])
def test_merged_counts_do_not_depend_on_the_split(cuts):
    rng = np.random.default_rng(4)
    truth, prediction = rng.integers(0, 5, (50, 60)), rng.integers(0, 5, (50, 60))
    parts = zip(np.split(truth, cuts), np.split(prediction, cuts), strict=True)
    np.testing.assert_array_equal(sum(confusion(t, p, 5, X) for t, p in parts), confusion(truth, prediction, 5, X))


def test_subsets_add_background_and_count_ids_with_truth():
    matrix = dense(MASKS["empty_class"][2])
    result = scores(matrix, NAMES, subsets={"rice": [1], "both": [2, 1, 1], "tofu": (2,), "none": []})
    assert result.subsets["rice"].miou == pytest.approx((12 / 13 + 3 / 4) / 2)
    assert result.subsets["both"].miou == pytest.approx((12 / 13 + 3 / 4) / 2)
    assert result.subsets["tofu"].miou == result.subsets["none"].miou == pytest.approx(12 / 13)
    assert [result.subsets[name].ids for name in ("rice", "both", "tofu", "none")] == [2, 2, 1, 1]


def test_subset_without_any_truth_has_no_score():
    result = scores(dense({(1, 1): 5}), NAMES, subsets={"tofu": [2]})
    assert result.subsets["tofu"].miou is None and result.subsets["tofu"].ids == 0


def test_subset_with_an_unknown_id_is_refused():
    with pytest.raises(UserError, match=r"subset 'soy' names id 3, valid ids are 0 to 2"):
        scores(dense({(1, 1): 5}), NAMES, subsets={"soy": [1, 3]})


def test_untrained_ids_count_zero_even_where_right():
    matrix = dense(MASKS["mixed"][2])
    result = scores(matrix, NAMES, subsets={"tofu": [2]}, trained_ids={0, 1})
    assert result.untrained == 1
    assert result.miou == result.miou_union == pytest.approx((8 / 10 + 3 / 5 + 0) / 3)
    assert result.miou_foreground == pytest.approx(3 / 5 / 2)
    assert result.subsets["tofu"].miou == pytest.approx(8 / 10 / 2)
    assert result.classes[2].iou == 0
    assert result.aacc == pytest.approx(13 / 16)


@pytest.mark.parametrize(("trained", "untrained"), [(None, None), ([0, 1, 2], 0), ([0, 1], 0), ([0], 1), ([], 2)])
def test_untrained_counts_only_ids_with_truth(trained, untrained):
    assert scores(dense(MASKS["empty_class"][2]), NAMES, trained_ids=trained).untrained == untrained


def test_only_background_has_no_foreground_score():
    result = scores(dense({(0, 0): 6, (0, 2): 2}), NAMES)
    assert result.miou == pytest.approx(6 / 8)
    assert result.miou_foreground is None
    assert result.miou_union == pytest.approx(6 / 8 / 2)


def test_nothing_to_score_is_refused():
    with pytest.raises(UserError, match="nothing to score"):
        scores(dense({}), NAMES)


def test_names_must_fit_the_matrix():
    with pytest.raises(UserError, match="2 class names need a 2 x 2 confusion matrix"):
        scores(dense({(0, 0): 1}), NAMES[:2])
