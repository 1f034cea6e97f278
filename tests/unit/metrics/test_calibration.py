"""Confidence against truth: by hand, against sorting every pixel, and a temperature that is known."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from foodseg.metrics.calibration import (
    BINS,
    CERTAIN,
    NLL_UNITS,
    PIXELS_PER_IMAGE,
    TEMPERATURES,
    calibration_scores,
    confidence_counts,
    fit_temperature,
    nll_sums,
    sampled_pixels,
    write_confidence,
)
from tests.support.compare import close


def counts_of(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Counts of pixels in one row; a right pixel has id 1 in truth and prediction, a wrong one 1 and 2."""
    quantised = np.rint(np.asarray(confidence) * CERTAIN).astype(np.uint16)[None]
    truth = np.ones(quantised.shape, np.uint8)
    return confidence_counts(truth, np.where(np.asarray(right)[None], 1, 2).astype(np.uint8), quantised, 255)


def random_pixels(count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    confidence = rng.beta(4, 1.3, count)
    return confidence, rng.random(count) < confidence**1.7


def test_by_hand():
    # bins of 1/15: 0.5 is in [7/15, 8/15), 0.95 and 1 in the last
    counts = counts_of([0.5, 0.5, 0.95, 1.0], [True, False, True, True])
    assert counts.shape == (BINS, 3) and counts.dtype == np.int64
    assert counts[:, :2].sum(0).tolist() == [4, 3]
    assert counts[-1].tolist() == [1, 1, CERTAIN] and counts[750].tolist() == [2, 1, 2 * 32768]
    result = calibration_scores(counts)
    assert (result.pixels, result.accuracy) == (4, 0.75)
    assert result.confidence == pytest.approx((0.5 + 0.5 + 0.95 + 1) / 4, abs=1e-4)
    # |1/2 - 0.5| x 2/4 + |1 - 0.975| x 2/4
    assert result.ece == pytest.approx(0.0125, abs=1e-4)
    assert [b.pixels for b in result.bins] == [0] * 7 + [2] + [0] * 6 + [2]
    # covered: 1, 2 right ones; then the last two together, one of them wrong
    assert result.risk_at == {"0.5": 0.0, "0.8": pytest.approx(0.6 / 3.2), "0.9": pytest.approx(0.8 / 3.6), "1.0": 0.25}


def test_as_every_pixel_sorted():
    confidence, right = random_pixels()
    result = calibration_scores(counts_of(confidence, right))
    bins = np.minimum((confidence * 15).astype(int), 14)
    ece = sum(abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert result.ece == pytest.approx(ece, abs=2e-4)
    order = np.argsort(-confidence)
    risks = np.cumsum(~right[order]) / np.arange(1, len(right) + 1)
    assert result.aurc == pytest.approx(risks.mean(), abs=5e-4)
    for coverage in (0.5, 0.8, 0.9, 1.0):
        assert result.risk_at[f"{coverage:.1f}"] == pytest.approx(risks[round(coverage * len(right)) - 1], abs=1e-3)
    assert [point[0] for point in result.risk_coverage[:2]] == [0.02, 0.04]
    assert result.risk_coverage[-1] == (1.0, 1 - result.accuracy)


def test_counts_add_up_and_ignored_pixels_are_left_out():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 3, (2, 30, 20), dtype=np.uint8)
    confidence = rng.integers(0, CERTAIN + 1, truth.shape, dtype=np.uint16)
    truth[:7] = 255
    whole = confidence_counts(truth, prediction, confidence, 255)
    arrays = (truth, prediction, confidence)
    parts = [confidence_counts(*(a[rows] for a in arrays), 255) for rows in (slice(11), slice(11, 30))]
    np.testing.assert_array_equal(sum(parts), whole)
    assert whole.sum(0).tolist() == [
        23 * 20,
        int((truth == prediction)[7:].sum()),
        int(confidence[7:].astype(np.int64).sum()),
    ]
    assert confidence_counts(truth[:7], prediction[:7], confidence[:7], 255).sum() == 0


def test_one_pixel_and_one_confidence_only():
    result = calibration_scores(counts_of([0.7], [False]))
    assert (result.accuracy, result.aurc, result.risk_at["0.5"]) == (0.0, 1.0, 1.0)
    assert result.ece == pytest.approx(0.7, abs=1e-4)
    same = calibration_scores(counts_of([0.9] * 10, [True] * 7 + [False] * 3))
    assert same.aurc == pytest.approx(0.3) and same.risk_at["0.5"] == pytest.approx(0.3)


def test_the_stored_histogram(tmp_path):
    counts = counts_of(*random_pixels(500))
    write_confidence(str(tmp_path / "confidence.parquet"), counts)
    table = pq.read_table(tmp_path / "confidence.parquet").to_pydict()
    assert table["pixels"] == counts[:, 0].tolist() and table["right"] == counts[:, 1].tolist()
    assert (table["from"][0], table["to"][-1]) == (0.0, 1.0)
    assert sum(table["confidence_sum"]) == pytest.approx(counts[:, 2].sum() / CERTAIN)


# --- temperature ---


def test_the_sample_is_labelled_repeatable_and_small():
    truth = np.zeros((100, 100), np.uint8)
    truth[:50] = 255
    sample = sampled_pixels(truth, 255, "a")
    assert len(sample) == len(set(sample.tolist())) == PIXELS_PER_IMAGE and sample.min() >= 5000
    np.testing.assert_array_equal(sampled_pixels(truth, 255, "a"), sample)
    assert not np.array_equal(sampled_pixels(truth, 255, "b"), sample)
    assert sampled_pixels(truth[49:51], 255, "a").tolist() == list(range(100, 200))
    assert not len(sampled_pixels(truth[:50], 255, "a"))


def slow_nll(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    scaled = logits.astype(np.float64) / temperature
    return float((np.log(np.exp(scaled).sum(0)) - scaled[truth, np.arange(len(truth))]).sum())


def test_nll_as_a_slow_loop():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(0, 3, (6, 50)).astype(np.float32), rng.integers(0, 6, 50).astype(np.uint8)
    found = nll_sums(logits, truth) / NLL_UNITS
    assert found == close([slow_nll(logits, truth, t) for t in TEMPERATURES])
    assert nll_sums(logits[:, :0], truth[:0]).tolist() == [0] * len(TEMPERATURES)


def test_large_logits_do_not_overflow():
    logits = np.array([[400.0, -400.0], [-400.0, 400.0]], np.float32)
    found = nll_sums(logits, np.array([0, 0])) / NLL_UNITS
    assert found == pytest.approx(800 / TEMPERATURES)


@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 1.73, 3.1])
def test_a_known_temperature_is_found(true_temperature):
    """Labels are drawn from the softmax at that temperature."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 4, (5, 60_000)).astype(np.float32)
    shares = np.exp(logits / true_temperature)
    shares /= shares.sum(0)
    truth = (rng.random(60_000) > np.cumsum(shares, axis=0)).sum(0).clip(0, 4)
    half = len(truth) // 2
    sums = nll_sums(logits[:, :half], truth[:half]) + nll_sums(logits[:, half:], truth[half:])
    fit = fit_temperature(sums, len(truth))
    assert fit.temperature == pytest.approx(true_temperature, rel=0.03)
    assert fit.nll_before == pytest.approx(slow_nll(logits, truth, 1.0) / len(truth), rel=1e-4)
    assert fit.nll_after == pytest.approx(slow_nll(logits, truth, fit.temperature) / len(truth), rel=1e-3)
    assert fit.nll_after <= fit.nll_before


def test_the_parabola_by_hand():
    # y = 3 (log2(T) - 0.05)^2 + 2 over log T: its minimum is found exactly
    sums = np.rint((3 * (np.log2(TEMPERATURES) - 0.05) ** 2 + 2) * NLL_UNITS * 1000).astype(np.int64)
    fit = fit_temperature(sums, 1000)
    assert fit.temperature == pytest.approx(2**0.05, rel=1e-6)
    assert (fit.nll_before, fit.nll_after) == (pytest.approx(2.0075, rel=1e-6), pytest.approx(2.0, rel=1e-6))


@pytest.mark.parametrize(("falling", "end"), [(True, 4.0), (False, 0.25)])
def test_a_minimum_at_an_end_stays_there(falling, end):
    sums = np.arange(33, 0, -1) if falling else np.arange(1, 34)
    assert fit_temperature(sums, 1).temperature == pytest.approx(end)


def test_a_model_that_cannot_tell_keeps_a_finite_temperature():
    assert np.isfinite(fit_temperature(np.full(33, 7), 1).temperature)
