"""Class scores to label maps and confidences: compared with torch's own resizing."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from foodseg.config.evaluation import EvalConfig
from foodseg.predict import image_logits
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.predictor import Predictor
from tests.unit.predict.test_predictor import CPU, PixelModel, sample_image

SIZES = [(1, 1), (1, 40), (40, 1), (32, 40), (128, 160), (131, 173), (20, 11), (7, 300)]


@pytest.mark.parametrize("band_bytes", [64 * 2**20, 1])  # 1: bands of one row
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_argmax_of_the_resized_logits(height, width, band_bytes, monkeypatch):
    monkeypatch.setitem(image_logits.BAND_BYTES, "cpu", band_bytes)
    torch.manual_seed(0)
    for shape in [(6, 32, 40), (6, 1, 1), (6, 1, 9)]:
        logits = torch.randn(shape)
        fitted = (4 * shape[1], 4 * shape[2])
        found = ImageLogits(logits, 4, fitted, height, width).ids()
        scores = interpolate(logits[None].double(), size=(height, width), mode="bilinear", align_corners=False)[0]
        assert found.dtype == np.uint8 and found.shape == (height, width)
        # where two classes are equal but for rounding, either is right
        chosen = scores.gather(0, torch.from_numpy(found.astype(np.int64))[None])[0]
        torch.testing.assert_close(chosen, scores.max(0).values, rtol=0, atol=1e-5)
        assert (found == scores.argmax(0).numpy()).mean() > 0.99


def test_more_than_256_classes():
    logits = torch.zeros(300, 2, 2)
    logits[299] = 1
    found = ImageLogits(logits, 4, (8, 8), 8, 8).ids()
    assert found.dtype == np.uint16 and (found == 299).all()


@pytest.mark.parametrize("band_bytes", [64 * 2**20, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (40, 1), (33, 47), (128, 160)])
def test_confidence_is_the_greatest_softmax_probability(height, width, temperature, band_bytes, monkeypatch):
    monkeypatch.setitem(image_logits.BAND_BYTES, "cpu", band_bytes)
    torch.manual_seed(0)
    values = 3 * torch.randn(7, 16, 20)
    kept = values.clone()
    logits = ImageLogits(values, 4, (64, 80), height, width)
    ids, confidence = logits.ids_and_confidence(temperature)
    np.testing.assert_array_equal(ids, logits.ids())
    assert torch.equal(values, kept)  # worked on in place, but not these
    scores = interpolate(values[None].double(), size=(height, width), mode="bilinear", align_corners=False)[0]
    expected = (scores / temperature).softmax(0).amax(0).numpy()
    assert confidence.dtype == np.uint16 and confidence.shape == (height, width)
    np.testing.assert_allclose(confidence / 65535, expected, atol=2e-5)


def test_certain_and_undecided():
    certain = ImageLogits(torch.tensor([90.0, 0.0, -90.0])[:, None, None], 4, (4, 4), 4, 4)
    undecided = ImageLogits(torch.zeros(4, 1, 1), 4, (4, 4), 4, 4)
    assert (certain.ids_and_confidence(1.0)[1] == 65535).all()
    ids, confidence = undecided.ids_and_confidence(1.0)
    assert (ids == 0).all() and (confidence == round(65535 / 4)).all()


@pytest.mark.parametrize("size", [(1, 1), (75, 100), (131, 173)])
def test_logits_of_single_pixels_are_those_of_the_whole(size):
    """Sizes whose padding is cut off, and a grid that is resized."""
    predictor = Predictor(PixelModel(), EvalConfig(longest_side=100), CPU)
    (logits,) = predictor.logits([sample_image(*size)], [size])
    whole = torch.cat([scores for _, scores in logits._bands()], dim=1).flatten(1).numpy()
    pixels = np.random.default_rng(0).permutation(whole.shape[1])[:500]
    np.testing.assert_allclose(logits.at(pixels), whole[:, pixels], atol=1e-5)
    assert logits.at(pixels[:0]).shape == (5, 0)
