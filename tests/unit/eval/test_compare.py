"""The paired bootstrap against a slow loop with the same draws, and against two groups enumerated by hand."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from foodseg.errors import UserError
from foodseg.eval.compare import compare
from foodseg.metrics import bootstrap as module
from foodseg.metrics.per_image import ImageCounts

K = 6


def side(seed: int, right: float, images: int = 14) -> list[ImageCounts]:
    """Images with the same truth for every `seed`, about the share `right` of it found; two per group."""
    shared, own = np.random.default_rng(100), np.random.default_rng(seed)
    result = []
    for index in range(images):
        shown = shared.choice(K, size=2, replace=False)  # few classes per image, so that resamples miss some
        truth = shared.choice(shown, size=200)
        prediction = np.where(own.random(200) < right, truth, own.integers(0, K, 200))
        matrix = np.bincount(truth * K + prediction, minlength=K * K).reshape(K, K)
        result.append(ImageCounts.from_matrix(f"p{index}", f"g{index // 2}", matrix))
    return result


def dense(image: ImageCounts) -> np.ndarray:
    matrix = np.zeros((K, K), dtype=np.int64)
    for t, p, n in zip(image.truth, image.prediction, image.count, strict=True):
        matrix[t, p] += n
    return matrix


def slow_miou(matrix: np.ndarray, ids: list[int]) -> float:
    ious = []
    for index in ids:
        truth, predicted, hits = int(matrix[index].sum()), int(matrix[:, index].sum()), int(matrix[index, index])
        if truth:
            ious.append(hits / (truth + predicted - hits))
    return sum(ious) / len(ious) if ious else float("nan")


def slow(a, b, ids: list[int], resamples: int, seed: int) -> tuple[float, float, float, int]:
    groups = sorted({image.group_id for image in a})
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(resamples):
        drawn = [groups[index] for index in rng.integers(0, len(groups), size=len(groups))]
        sums = [sum(dense(p) for group in drawn for p in images if p.group_id == group) for images in (a, b)]
        differences.append(slow_miou(sums[0], ids) - slow_miou(sums[1], ids))
    kept = [value for value in differences if value == value]
    observed = slow_miou(sum(map(dense, a)), ids) - slow_miou(sum(map(dense, b)), ids)
    return observed, *np.percentile(kept, [2.5, 97.5]), len(kept)


def test_as_a_slow_loop_with_the_same_draws():
    a, b = side(1, 0.8), side(2, 0.6)
    result = compare(a, b, K, subsets={"some": [2, 5]}, resamples=150, seed=9)
    for measure, ids in ((result.miou, list(range(K))), (result.subsets["some"], [0, 2, 5])):
        expected = slow(a, b, ids, 150, 9)
        found = (measure.difference, measure.low, measure.high, measure.resamples)
        assert found == pytest.approx(expected, abs=1e-12)
        assert (measure.groups, measure.images) == (7, 14)
        assert measure.difference == measure.a - measure.b
        assert measure.low < measure.difference < measure.high


def test_identical_sides_differ_by_exactly_nothing():
    a = side(1, 0.7)
    result = compare(a, list(a), K, subsets={"some": [1]}, resamples=300)
    for measure in (result.miou, result.subsets["some"]):
        assert (measure.difference, measure.low, measure.high) == (0.0, 0.0, 0.0)
        assert measure.a == measure.b > 0


def test_the_order_of_the_images_does_not_matter():
    a, b = side(1, 0.8), side(2, 0.6)
    assert compare(a[::-1], b[3:] + b[:3], K, resamples=200) == compare(a, b, K, resamples=200)


def test_exchanged_sides_give_the_mirrored_interval():
    a, b = side(1, 0.8), side(2, 0.6)
    forth, back = compare(a, b, K, resamples=200).miou, compare(b, a, K, resamples=200).miou
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-12)


def test_the_chunk_size_does_not_matter(monkeypatch):
    a, b = side(1, 0.8), side(2, 0.6)
    whole = compare(a, b, K, resamples=101)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * (4 * 7 + 16 * K) * 3)  # three resamples at a time
    assert compare(a, b, K, resamples=101) == whole


def two_groups() -> tuple[list[ImageCounts], list[ImageCounts]]:
    """Group g shows 10 pixels of id 0, h 10 of id 1. A finds all of g and 5 of h (rest as 2), B 5 of g, none of h."""

    def image(name: str, cells: list[tuple[int, int, int]]) -> ImageCounts:
        truth, prediction, count = (np.array(column) for column in zip(*cells, strict=True))
        return ImageCounts(name, f"group of {name}", truth.astype(np.int32), prediction.astype(np.int32), count)

    a = [image("g", [(0, 0, 10)]), image("h", [(1, 1, 5), (1, 2, 5)])]
    b = [image("g", [(0, 0, 5), (0, 2, 5)]), image("h", [(1, 2, 10)])]
    return a, b


def test_two_groups_by_hand():
    # gg (1/4): A 1, B 0.5 -> 0.5; hh (1/4): A 0.5, B 0 -> 0.5; gh (1/2): A (1 + 0.5) / 2, B (0.5 + 0) / 2 -> 0.5.
    a, b = two_groups()
    result = compare(a, b, 3, resamples=400).miou
    assert (result.a, result.b, result.difference) == (0.75, 0.25, 0.5)
    assert (result.low, result.high, result.groups, result.images, result.resamples) == (0.5, 0.5, 2, 2, 400)


def test_an_absent_class_leaves_both_means():
    # As above, but B finds all of g: gg -> 0, hh -> 0.5, gh -> 0.75 - 0.5 = 0.25. Counting absent ids 0 would give 0.25
    # as the upper end (0.5 / 2).
    a, b = two_groups()
    result = compare(a, [a[0], b[1]], 3, resamples=400).miou
    assert (result.difference, result.low, result.high) == (0.25, 0.0, 0.5)


def test_resamples_without_any_id_of_the_subset_are_left_out():
    # Only g holds an id of the subset {0, 2}; in every fourth resample (hh) it has no mean.
    a, b = two_groups()
    result = compare(a, b, 3, subsets={"other": [2]}, resamples=400)
    assert 250 < result.subsets["other"].resamples < 350
    assert (result.subsets["other"].low, result.subsets["other"].high) == (0.5, 0.5)
    assert result.miou.resamples == 400


def test_one_group_has_an_interval_of_one_point():
    a, b = side(1, 0.8, images=2), side(2, 0.6, images=2)
    result = compare(a, b, K, resamples=20).miou
    assert result.low == result.high == result.difference
    assert result.groups == 1


def test_intervals_hold_the_true_difference():
    # 20 classes, of which most have few images, one class an image; A finds 0.55 of the pixels on average, B 0.5,
    # and images differ. Drawn groups hold the true 0.05 in 92 of 100 simulated data sets; random weights (Bayesian
    # bootstrap), which never lose a class, in 67.
    shown = np.repeat(np.arange(20), [1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 8, 10, 10, 12, 15, 20, 25, 30, 60])
    rng = np.random.default_rng(0)

    def found(share: float) -> list[ImageCounts]:
        right = np.clip(rng.normal(share, 0.15, shown.size), 0, 1)
        return [
            ImageCounts(f"p{i}", f"g{i}", np.array([k, k]), np.array([k, 20]), np.rint([1000 * r, 1000 - 1000 * r]))
            for i, (k, r) in enumerate(zip(shown, right, strict=True))
        ]

    intervals = [compare(found(0.55), found(0.5), 21, resamples=300).miou for _ in range(100)]
    held = sum(each.low <= 0.05 <= each.high for each in intervals)
    assert held >= 88


def renamed(image: ImageCounts, image_id: str, group_id: str) -> ImageCounts:
    return ImageCounts(image_id, group_id, image.truth, image.prediction, image.count)


def test_different_images_are_refused():
    a = side(1, 0.8)
    with pytest.raises(UserError, match="'p10', 'p11', 'p12' and 1 more are on one side only"):
        compare(a, side(2, 0.6)[:10], K)
    with pytest.raises(UserError, match="'other', 'p0' are on one side only"):
        compare(a, [renamed(a[0], "other", "g0"), *a[1:]], K)


def test_different_truth_is_refused():
    a = side(1, 0.8)
    changed = ImageCounts("p3", "g1", a[3].truth, a[3].prediction, a[3].count + 1)
    with pytest.raises(UserError, match="the pixel counts of 'p3' differ"):
        compare(a, [*a[:3], changed, *a[4:]], K)


def test_different_groups_are_refused():
    a = side(1, 0.8)
    with pytest.raises(UserError, match="the groups of 'p0' differ"):
        compare(a, [renamed(a[0], "p0", "g5"), *a[1:]], K)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": []}, "side A has no images"),
        ({"b": side(2, 0.6) + side(2, 0.6)[:1]}, "side B has 15 images but only 14 different image ids"),
        ({"classes": 4}, "valid ids are 0 to 3"),
        ({"subsets": {"soy": [9]}}, "subset 'soy' names id 9"),
        ({"resamples": 0}, "resamples must be at least 1, found 0"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        compare(**{"a": side(1, 0.8), "b": side(2, 0.6), "classes": K, **change})


def test_nothing_labelled_is_refused():
    empty = [ImageCounts.from_matrix("p0", "g0", np.zeros((K, K), np.int64))]
    with pytest.raises(UserError, match="no id of the mIoU has a labelled pixel"):
        compare(empty, empty, K)
    rice = [ImageCounts.from_matrix("p0", "g0", np.diag([0, 5, 0, 0, 0, 0]))]
    with pytest.raises(UserError, match="no id of subset 'soy' has a labelled pixel"):
        compare(rice, rice, K, subsets={"soy": [2]})


def test_json_and_markdown():
    a, b = two_groups()
    result = compare(a, b, 3, subsets={"a|b": [1]}, resamples=50)
    plain = asdict(result)
    assert json.loads(json.dumps(plain)) == plain
    assert plain["miou"]["difference"] == 0.5 and list(plain["subsets"]) == ["a|b"]
    lines = result.to_markdown().splitlines()
    assert lines[2] == "| mIoU | 75.0 | 25.0 | +50.00 | +50.00 to +50.00 | 2 | 2 | 50 |"
    assert lines[3].startswith("| mIoU a\\|b | 75.0 |")
