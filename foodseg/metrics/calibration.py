"""Calibration of a model's confidences, and the temperature that corrects them.

Confidence is the greatest softmax probability of a pixel at the mask's resolution, after division of the logits by the
temperature, as uint16: 65535 = certain. Labelled pixels are counted in bins of confidence; counts are whole numbers,
merged by addition, and divided once.

    counts = sum(confidence_counts(truth, ids, confidence, 255) for ...)
    print(calibration_scores(counts).ece)

The expected calibration error is that of Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, as is the
temperature, fitted by negative log-likelihood. The risk-coverage curve: Geifman and El-Yaniv, "Selective Classification
for Deep Neural Networks", NIPS 2017.

Shape letters: H, W image; K class ids; T temperatures; n pixels.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foodseg import storage

ECE_BINS = 15
BINS = 100 * ECE_BINS  # of equal width in [0, 1]; finer bins make the risk-coverage curve more exact
CURVE_POINTS = 50
CERTAIN = np.iinfo(np.uint16).max

TEMPERATURES = np.geomspace(0.25, 4, 33)  # the middle one is 1
PIXELS_PER_IMAGE = 4096  # for the temperature: neighbouring pixels are nearly redundant
NLL_UNITS = 2**16  # per nat: whole numbers add up to the same whatever the order


@dataclass(frozen=True)
class ReliabilityBin:
    """One of the ECE_BINS bins of confidence: its pixels, their mean confidence, the share that is right; None if 0."""

    pixels: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class CalibrationScores:
    """Confidence against truth over all labelled pixels; shares in [0, 1].

    ece: expected calibration error: |accuracy - mean confidence| of each bin, weighted with its pixels.
    aurc: area under the risk-coverage curve: the mean over all coverages of the share of wrong pixels among the
        most confident ones. Pixels of one fine bin are taken as equally confident.
    risk_at: that share at the coverages "0.5", "0.8", "0.9", "1.0".
    risk_coverage: (coverage, risk) at CURVE_POINTS even steps of coverage up to 1.
    """

    pixels: int
    accuracy: float
    confidence: float
    ece: float
    aurc: float
    risk_at: Mapping[str, float]
    risk_coverage: tuple[tuple[float, float], ...]
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class TemperatureFit:
    """The temperature of least negative log-likelihood, and that likelihood per pixel in nats at 1 and with it."""

    temperature: float
    nll_before: float
    nll_after: float


def confidence_counts(truth: np.ndarray, prediction: np.ndarray, confidence: np.ndarray, ignore_id: int) -> np.ndarray:
    """Counts the labelled pixels of one image by confidence.

    Args:
        truth: (H, W) ids or `ignore_id`. prediction: (H, W) ids. confidence: (H, W) uint16, 65535 = certain.

    Returns:
        (BINS, 3) int64: pixels, those that are right, the sum of their confidences in 1 / 65535.
    """
    counted = truth != ignore_id
    values = confidence[counted].astype(np.int64)
    right = values[truth[counted] == prediction[counted]]
    # How often each of the 65,536 values occurs: its sum is then exact, and a large image is gone through only once.
    times = np.bincount(values, minlength=CERTAIN + 1)
    right_times = np.bincount(right, minlength=CERTAIN + 1)
    steps = np.arange(CERTAIN + 1)
    starts = np.searchsorted(steps * BINS // (CERTAIN + 1), np.arange(BINS))
    columns = [np.add.reduceat(column, starts) for column in (times, right_times, times * steps)]
    return np.stack(columns, axis=1).astype(np.int64)


def calibration_scores(counts: np.ndarray) -> CalibrationScores:
    """Divides (BINS, 3) counts of `confidence_counts`, with at least one pixel, into scores."""
    total, right, _ = (int(value) for value in counts.sum(0))
    assert total > 0
    parts = np.split(counts, ECE_BINS)
    gaps = [abs(right_ones - confident / CERTAIN) for _, right_ones, confident in (p.sum(0) for p in parts)]
    covered, wrong = _most_confident_first(counts)
    coverages = np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS
    risks = _risk(covered, wrong, coverages)
    named = (0.5, 0.8, 0.9, 1.0)
    return CalibrationScores(
        pixels=total,
        accuracy=right / total,
        confidence=float(counts[:, 2].sum() / (CERTAIN * total)),
        ece=float(sum(gaps) / total),
        aurc=_area(covered, wrong),
        risk_at={f"{at:.1f}": float(_risk(covered, wrong, np.array([at]))[0]) for at in named},
        risk_coverage=tuple(zip(coverages.tolist(), risks.tolist(), strict=True)),
        bins=tuple(_reliability_bin(*part.sum(0)) for part in parts),
    )


def write_confidence(uri: str, counts: np.ndarray) -> None:
    """Writes the counts as Parquet, a row per bin: from which confidence up to which, pixels, right ones, sum of the
    pixels' confidences."""
    edges = np.arange(BINS + 1) / BINS
    table = pa.table(
        {
            "from": edges[:-1],
            "to": edges[1:],
            "pixels": counts[:, 0],
            "right": counts[:, 1],
            "confidence_sum": counts[:, 2] / CERTAIN,
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def _reliability_bin(pixels: int, right: int, confidence: int) -> ReliabilityBin:
    if not pixels:
        return ReliabilityBin(0, None, None)
    return ReliabilityBin(int(pixels), float(confidence / (CERTAIN * pixels)), float(right / pixels))


def _most_confident_first(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns covered and wrong pixels, both (bins + 1,) float64 from 0 on, after each bin that has any."""
    used = counts[::-1][counts[::-1, 0] > 0]
    covered, wrong = np.cumsum(used[:, 0]), np.cumsum(used[:, 0] - used[:, 1])
    return np.append(0.0, covered), np.append(0.0, wrong)


def _risk(covered: np.ndarray, wrong: np.ndarray, coverages: np.ndarray) -> np.ndarray:
    pixels = coverages * covered[-1]
    return np.interp(pixels, covered, wrong) / pixels


def _area(covered: np.ndarray, wrong: np.ndarray) -> float:
    """Integrates wrong / covered over the coverage; between two points both grow in proportion.

    With N, E pixels and errors before a bin of n and e: the integral of (E + e t) / (N + n t) n dt over t in [0, 1] is
    e + (E - e N / n) ln((N + n) / N), and e alone for the first bin.
    """
    before, errors = covered[:-1], wrong[:-1]
    pixels, new = np.diff(covered), np.diff(wrong)
    logs = np.log(covered[1:] / np.where(before > 0, before, covered[1:]))
    return float((new + (errors - new * before / pixels) * logs).sum() / covered[-1])


# --- temperature ---


def sampled_pixels(truth: np.ndarray, ignore_id: int, image_id: str) -> np.ndarray:
    """Returns (n,) flat indices of at most PIXELS_PER_IMAGE labelled pixels; the same for the same image."""
    labelled = np.flatnonzero(truth.ravel() != ignore_id)
    if len(labelled) <= PIXELS_PER_IMAGE:
        return labelled
    seed = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "little")
    return labelled[np.random.default_rng(seed).choice(len(labelled), PIXELS_PER_IMAGE, replace=False, shuffle=False)]


def nll_sums(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Sums the negative log-likelihood of pixels at every temperature.

    Args:
        logits: (K, n) float32. truth: (n,) ids in [0, K).

    Returns:
        (T,) int64, in 1 / NLL_UNITS nats.
    """
    if not len(truth):
        return np.zeros(len(TEMPERATURES), np.int64)
    # the true class is shifted to 0, so that no temperature overflows but where the likelihood itself does
    gaps = logits - logits[truth.astype(np.intp), np.arange(len(truth))]
    highest = gaps.max(0)
    below = gaps - highest
    sums = [
        float((np.log(np.exp(below * np.float32(1 / t)).sum(0)) + highest * np.float32(1 / t)).sum(dtype=np.float64))
        for t in TEMPERATURES
    ]
    return np.rint(np.array(sums) * NLL_UNITS).astype(np.int64)


def fit_temperature(sums: np.ndarray, pixels: int) -> TemperatureFit:
    """Finds the temperature of least negative log-likelihood.

    The minimum is that of the parabola through the three best points of the grid over log T; where the best one is an
    end of the grid, it is that end.

    Args:
        sums: (T,) of `nll_sums`, over all images. pixels: how many pixels they are of, at least 1.
    """
    nll = sums / (NLL_UNITS * pixels)
    best = int(nll.argmin())
    log_t, least = float(np.log(TEMPERATURES[best])), float(nll[best])
    if 0 < best < len(nll) - 1:
        left, middle, right = nll[best - 1 : best + 2]
        bend = left - 2 * middle + right
        if bend > 0:  # three equal values have no minimum
            shift = (left - right) / (2 * bend)
            log_t += shift * float(np.log(TEMPERATURES[1] / TEMPERATURES[0]))
            least = float(middle - (left - right) * shift / 4)
    return TemperatureFit(float(np.exp(log_t)), float(nll[len(nll) // 2]), least)
