"""The ablation's table against groups and seeds enumerated by hand, and a slow loop with the same draws."""

import json

import numpy as np
import pytest

from foodseg.errors import UserError
from foodseg.metrics.bootstrap import draw_seeds, interval
from foodseg.metrics.per_image import ImageCounts
from foodseg.tune.ablation import AblationResult, ContrastScore, Spread, ablation_table, page_markdown, table_markdown


def images(*right: int) -> list[ImageCounts]:
    """One image and group per number: 10 pixels of id 1, so many of them found, the others called 0."""
    return [
        ImageCounts.from_matrix(f"p{i}", f"g{i}", np.array([[0, 0], [10 - count, count]]))
        for i, count in enumerate(right)
    ]


def test_one_group_leaves_the_seeds():
    # mIoU of id 1 alone: right / 10. Seeds 0.6, 0.8 against 0.5, 0.5: the differences 0.1, 0.3 are drawn with
    # replacement, means 0.1 (1/4), 0.2 (1/2), 0.3 (1/4).
    runs = {"new": {3: images(6), 7: images(8)}, "old": {3: images(5), 7: images(5)}}
    table = ablation_table(runs, {"gain": ("new", "old")}, 2, resamples=400)
    new, gain = table.variants["new"]["miou"], table.contrasts["gain"].scores["miou"]
    assert new.mean == pytest.approx(0.7) and new.seeds == {3: 0.6, 7: 0.8}
    assert new.spread.deviation == pytest.approx(np.std([0.6, 0.8], ddof=1))
    assert (new.spread.low, new.spread.high) == pytest.approx((0.6, 0.8))
    assert gain.difference == pytest.approx(0.2)
    assert (gain.spread.low, gain.spread.high) == pytest.approx((0.1, 0.3)) and gain.significant
    assert table.variants["old"]["miou"].spread == Spread(deviation=0.0, low=0.5, high=0.5)
    assert table.contrasts["gain"].seeds == (3, 7) and (table.groups, table.images) == (1, 1)


def test_counts_are_summed_before_they_are_divided():
    # two groups of 10 pixels, 10 and 2 found: 0.6; drawn twice the first 1.0, twice the second 0.2
    table = ablation_table({"a": {0: images(10, 2)}}, {}, 2, resamples=300)
    row = table.variants["a"]["miou"]
    assert row.mean == 0.6 and row.spread == Spread(deviation=None, low=0.2, high=1.0)


def test_as_a_slow_loop_with_the_same_draws():
    rng = np.random.default_rng(5)
    counts = {(variant, seed): rng.integers(0, 11, 6) for variant in "ab" for seed in (0, 1, 2)}
    runs = {variant: {seed: images(*counts[variant, seed]) for seed in (0, 1, 2)} for variant in "ab"}
    table = ablation_table(runs, {"a - b": ("a", "b")}, 2, resamples=120)
    groups, chosen, differences = np.random.default_rng(0), draw_seeds(3, 120), []
    for seeds in chosen:
        drawn = groups.integers(0, 6, size=6)
        sides = [np.mean([counts[variant, seed][drawn].sum() / 60 for seed in seeds]) for variant in "ab"]
        differences.append(sides[0] - sides[1])
    found = table.contrasts["a - b"].scores["miou"]
    assert (found.spread.low, found.spread.high) == pytest.approx(
        tuple(np.percentile(differences, [2.5, 97.5])), abs=1e-12
    )
    assert found.difference == pytest.approx(sum(counts["a", s].sum() - counts["b", s].sum() for s in range(3)) / 180)


def test_a_contrast_takes_the_seeds_that_both_have():
    runs = {"a": {0: images(6), 1: images(10)}, "b": {0: images(5)}, "c": {2: images(5)}}
    table = ablation_table(runs, {"a - b": ("a", "b"), "a - c": ("a", "c"), "a - d": ("a", "d")}, 2, resamples=20)
    assert list(table.contrasts) == ["a - b"]
    assert table.contrasts["a - b"].scores["miou"].difference == pytest.approx(0.1)


def test_a_subset_without_pixels_has_no_score():
    runs = {"a": {0: images(6)}, "b": {0: images(5)}}
    table = ablation_table(runs, {"d": ("a", "b")}, 3, subsets={"none": [2]}, resamples=20)
    assert table.variants["a"]["none"].mean is None
    assert table.contrasts["d"].scores["none"] == ContrastScore(None, Spread(None, None, None), False)
    assert "| a | 1 | 60.00 [60.00, 60.00] | - |" in table_markdown(table, "t")


def test_other_images_are_refused():
    runs = {"a": {0: images(6)}, "b": {1: images(5, 5)}}
    with pytest.raises(UserError, match=r"a, seed 0 and b, seed 1 must hold the same images, but 'p1' are on one"):
        ablation_table(runs, {}, 2, resamples=20)


def test_the_page():
    runs = {"new|er": {0: images(6), 1: images(8)}, "old": {0: images(5), 1: images(5)}}
    table = ablation_table(runs, {"gain": ("new|er", "old")}, 2, subsets={"s": [1]}, resamples=200)
    page = page_markdown(AblationResult("sweeps/a", "val", {"old-seed2": "NaN"}, {"ema": table}))
    lines = page.splitlines()
    assert "## Averaged (EMA) weights" in lines and "- old-seed2: NaN" in lines
    assert "| variant | seeds | mIoU | s |" in lines and "| contrast | seeds | mIoU | s |" in lines
    row = "| new\\|er | 2 | 70.00 +- 14.14 [60.00, 80.00] | 70.00 +- 14.14 [60.00, 80.00] |"
    assert row in lines
    gain = "+20.00 +- 14.14 [+10.00, +30.00] *"
    assert f"| gain: new\\|er minus old | 2 | {gain} | {gain} |" in lines


def test_the_keys_of_the_json():
    runs = {"new": {3: images(6), 7: images(8)}, "old": {3: images(5), 7: images(5)}}
    table = ablation_table(runs, {"gain": ("new", "old")}, 2, subsets={"s": [1]}, resamples=50)
    result = AblationResult("sweeps/a", "val", {"old-seed2": "NaN"}, {"student": table, "ema": table})
    plain = json.loads(json.dumps(result.to_json()))
    assert list(plain) == ["ablation", "split", "failed", "student", "ema"] and plain["student"] == plain["ema"]
    assert list(plain["ema"]) == ["variants", "contrasts", "images", "groups"]
    row, gain = plain["ema"]["variants"]["new"], plain["ema"]["contrasts"]["gain"]
    assert list(row) == ["miou", "s"] and list(row["s"]) == ["mean", "deviation", "low", "high", "seeds"]
    assert row["s"]["seeds"] == {"3": 0.6, "7": 0.8}
    assert list(gain) == ["variants", "seeds", "miou", "s"] and gain["variants"] == ["new", "old"]
    assert gain["seeds"] == [3, 7]
    assert list(gain["s"]) == ["difference", "deviation", "low", "high", "significant"]


def test_an_interval_of_nothing():
    assert interval(np.array([np.nan, np.nan])) is None
    assert interval(np.array([0.5, np.nan])) == (0.5, 0.5, 1)
