"""Class scores to label maps and confidences: compared with torch's own resizing."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from foodseg.config.evaluation import EvalConfig
from foodseg.predict import image_logits
from foodseg.predict.image_logits import ImageLogits, contenders
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


def test_classes_that_cannot_win_are_left_out():
    """By hand: between 3 and 1 class 0 is at least 1; class 1 reaches 2, class 2 only 0.9."""
    values = torch.tensor([[[3.0, 1.0]], [[0.0, 2.0]], [[0.9, 0.9]]])
    assert contenders(values, 0.0).tolist() == [0, 1]
    assert contenders(values, 0.2).tolist() == [0, 1, 2]
    assert contenders(values, torch.inf).tolist() == [0, 1, 2]
    assert contenders(values[:, :, :1], 0.0).tolist() == [0]
    # the middle belongs to a class that is the best at neither end
    between = torch.tensor([[[9.0, 0.0]], [[0.0, 9.0]], [[6.0, 6.0]]])
    assert contenders(between, 0.0).tolist() == [0, 1, 2]
    assert (ImageLogits(between, 4, (4, 8), 1, 80).ids() == 2).any()
    # of equal ones the first has it
    assert (ImageLogits(torch.ones(5, 3, 3), 4, (12, 12), 12, 12).ids() == 0).all()


@pytest.mark.parametrize("temperature", [0.2, 1.0, 4.0])
def test_many_classes_of_which_few_contend(temperature, monkeypatch):
    monkeypatch.setitem(image_logits.BAND_BYTES, "cpu", 84 * 4 * 170 * 5)  # five rows
    torch.manual_seed(0)
    smooth = interpolate(torch.randn(1, 84, 5, 6), size=(30, 40), mode="bicubic")[0]
    values = 12 * smooth - torch.arange(84)[:, None, None] / 4
    logits = ImageLogits(values, 4, (118, 158), 131, 170)
    kept = [len(classes) for _, _, classes in logits._contending(0.0)]
    assert max(kept) < 84 and min(kept) < 20
    ids, confidence = logits.ids_and_confidence(temperature)
    whole = torch.cat([scores for _, scores in logits._bands()], 1)
    assert whole.shape == (84, 131, 170)
    np.testing.assert_array_equal(ids, whole.argmax(0).numpy())
    np.testing.assert_array_equal(logits.ids(), ids)
    expected = (whole.double() / temperature).softmax(0).amax(0).numpy()
    np.testing.assert_allclose(confidence / 65535, expected, atol=1e-5)


def test_scores_that_are_no_numbers_are_shown_as_before():
    values = torch.zeros(3, 4, 4)
    values[1, 2, 2] = torch.nan
    logits = ImageLogits(values, 4, (16, 16), 16, 16)
    assert len(logits.scores()) == 3 and logits.ids().max() == 1
