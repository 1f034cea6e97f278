"""The ablation's table against groups and seeds enumerated by hand, and a slow loop with the same draws."""

import json

import numpy as np
import pytest

from foodseg.errors import UserError
from foodseg.metrics.bootstrap import draw_seeds, interval
from foodseg.metrics.per_image import ImageCounts
from foodseg.tune.ablation import AblationResult, ContrastScore, Spread, ablation_table, page_markdown, table_markdown
from foodseg.tune.run_cost import RunCost


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
    assert table.contrasts["d"].scores["none"] == ContrastScore(None, Spread(None, None, None), None, None, False)
    assert "| a | 1 | 60.00 [60.00, 60.00] | - | - | - |" in table_markdown(table, "t")


def test_a_star_is_for_what_is_significant_after_the_correction():
    # Of 8 groups, `new` has one pixel more in seven and two less in one. A draw without a gain has at least
    # 8 x 1/3 = 2.67, so 3 of the 8 from that one: 1 - P(0, 1, 2 of 8 at 1/8) = 0.067
    found = {"old": images(*[5] * 8), "new": images(*[6] * 7, 3), "sure": images(*[6] * 8)}
    runs = {variant: {0: counts} for variant, counts in found.items()}
    alone = ablation_table(runs, {"sure": ("sure", "old")}, 2, resamples=999, folds=5).contrasts["sure"].scores["miou"]
    assert alone.p == alone.p_holm == 2 / 1000 and alone.significant, "one seed of five trainings"
    contrasts = {"sure": ("sure", "old"), "new": ("new", "old"), "same": ("old", "old")}
    table = ablation_table(runs, contrasts, 2, resamples=999, folds=5)
    scores = {title: contrast.scores["miou"] for title, contrast in table.contrasts.items()}
    assert scores["sure"].p_holm == pytest.approx(3 * scores["sure"].p) and scores["sure"].significant
    assert scores["new"].p == pytest.approx(2 * 0.067, abs=0.05) and not scores["new"].significant
    assert scores["new"].p_holm == pytest.approx(2 * scores["new"].p)
    assert (scores["same"].p, scores["same"].p_holm) == (1, 1)
    one_seed = ablation_table(runs, contrasts, 2, resamples=999).contrasts["sure"].scores["miou"]
    assert one_seed.p_holm < 0.05 and not one_seed.significant, "without folds a seed is one training"


def test_other_images_are_refused():
    runs = {"a": {0: images(6)}, "b": {1: images(5, 5)}}
    with pytest.raises(UserError, match=r"a, seed 0 and b, seed 1 must hold the same images, but 'p1' are on one"):
        ablation_table(runs, {}, 2, resamples=20)


def test_the_page():
    runs = {"new|er": {0: images(6), 1: images(8)}, "old": {0: images(5), 1: images(5)}}
    costs = {"new|er": RunCost(0.41449, 1210.4)}
    contrasts = {"gain": ("new|er", "old")}
    table = ablation_table(runs, contrasts, 2, subsets={"s": [1]}, resamples=200, costs=costs)
    page = page_markdown(AblationResult("sweeps/a", "val", {"old-seed2": "NaN"}, {"ema": table}))
    lines = page.splitlines()
    assert lines[0] == "## Ablation on val", "a section of a page of results"
    assert "### Averaged (EMA) weights" in lines and "- old-seed2: NaN" in lines
    assert "| variant | seeds | mIoU | s | s / update | MiB |" in lines and "| contrast | seeds | mIoU | s |" in lines
    row = "| new\\|er | 2 | 70.00 +- 14.14 [60.00, 80.00] | 70.00 +- 14.14 [60.00, 80.00] | 0.414 | 1210 |"
    assert row in lines and any(line.startswith("| old | 2 |") and line.endswith("| - | - |") for line in lines)
    gain = "+20.00 +- 14.14 [+10.00, +30.00] *"
    assert f"| gain: new\\|er minus old | 2 | {gain} | {gain} |" in lines


def test_the_keys_of_the_json():
    runs = {"new": {3: images(6), 7: images(8)}, "old": {3: images(5), 7: images(5)}}
    costs = {"new": RunCost(0.4, 1210.0)}
    table = ablation_table(runs, {"gain": ("new", "old")}, 2, subsets={"s": [1]}, resamples=50, costs=costs)
    result = AblationResult("sweeps/a", "val", {"old-seed2": "NaN"}, {"student": table, "ema": table})
    plain = json.loads(json.dumps(result.to_json()))
    assert list(plain) == ["ablation", "split", "failed", "student", "ema"] and plain["student"] == plain["ema"]
    assert list(plain["ema"]) == ["variants", "contrasts", "images", "groups", "folds", "costs"]
    assert plain["ema"]["costs"] == {"new": {"seconds_per_update": 0.4, "memory_mib": 1210.0}}
    row, gain = plain["ema"]["variants"]["new"], plain["ema"]["contrasts"]["gain"]
    assert list(row) == ["miou", "s"] and list(row["s"]) == ["mean", "deviation", "low", "high", "seeds"]
    assert row["s"]["seeds"] == {"3": 0.6, "7": 0.8}
    assert list(gain) == ["variants", "seeds", "miou", "s"] and gain["variants"] == ["new", "old"]
    assert gain["seeds"] == [3, 7]
    assert list(gain["s"]) == ["difference", "deviation", "low", "high", "p", "p_holm", "significant"]


def test_an_interval_of_nothing():
    assert interval(np.array([np.nan, np.nan])) is None
    assert interval(np.array([0.5, np.nan])) == (0.5, 0.5, 1)
