"""Label maps and confidences: compared with torch's own resizing, with whole and mirrored images; and memory."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from foodseg.config.evaluation import EvalConfig
from foodseg.config.model import ModelConfig
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import SegmenterOutput
from foodseg.predict import predictor as predictor_module
from foodseg.predict.predictor import ImageLogits, Predictor
from tests.support.compare import assert_same_ids, scores_of

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


class PixelModel(nn.Module):
    """Stride 4: each logit is a 1x1 convolution of the mean of its 4 x 4 pixels, so that no pixel sees another cell."""

    stride, size_multiple = 4, 32

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.convolution = nn.Conv2d(3, classes, 1)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> SegmenterOutput:
        self.seen.append(tuple(image.shape[-2:]))
        cells = nn.functional.avg_pool2d(image - self.mean, 4, ceil_mode=True)
        return SegmenterOutput(self.convolution(cells), 4, None, cells)


def sample_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def logits_of(image: np.ndarray, model=None, **settings) -> ImageLogits:
    predictor = Predictor(model or PixelModel(), EvalConfig(**{"longest_side": None, **settings}), CPU)
    return predictor.logits(image, *image.shape[:2])


def predict(image: np.ndarray, model=None, **settings) -> np.ndarray:
    return logits_of(image, model, **settings).ids()


SIZES = [(1, 1), (1, 40), (40, 1), (32, 40), (128, 160), (131, 173), (20, 11), (7, 300)]


@pytest.mark.parametrize("band_bytes", [64 * 2**20, 1])  # 1: bands of one row
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_argmax_of_the_resized_logits(height, width, band_bytes, monkeypatch):
    monkeypatch.setattr(predictor_module, "BAND_BYTES", band_bytes)
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
    monkeypatch.setattr(predictor_module, "BAND_BYTES", band_bytes)
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
    logits = predictor.logits(sample_image(*size), *size)
    whole = torch.cat([scores for _, scores in logits._bands()], dim=1).flatten(1).numpy()
    pixels = np.random.default_rng(0).permutation(whole.shape[1])[:500]
    np.testing.assert_allclose(logits.at(pixels), whole[:, pixels], atol=1e-5)
    assert logits.at(pixels[:0]).shape == (5, 0)


def test_padding_does_not_shift():
    """Padding lies right and below: the labels of an image are those in a larger one, but for the rim."""
    large = sample_image(128, 160)
    whole = logits_of(large)
    part = predict(large[:100, :148])
    assert part.shape == (100, 148)
    assert_same_ids(part[:96, :144], whole.ids()[:96, :144], scores_of(whole)[:, :96, :144])


def test_padding_holds_the_mean():
    seen = []
    model = PixelModel()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    predict(sample_image(33, 40), model=model)
    assert seen[0].shape == (1, 3, 64, 64)
    assert (seen[0][:, :, 33:] == 0.5).all() and (seen[0][:, :, :, 40:] == 0.5).all()


WINDOWS = [(64, None), (64, 64), (64, 17), (50, 33), (96, 96), (512, None)]
SHOWN = [(size, *each) for size in [(96, 128), (100, 61), (64, 64)] for each in WINDOWS]


@pytest.mark.parametrize(("size", "window", "stride"), [*SHOWN, ((48, 40), 33, 1)])
def test_windows_equal_the_whole_image(size, window, stride):
    """Windows of any side: cells cut in two by a border are averaged, so only sides that the grid divides are exact."""
    model = PixelModel()
    image = sample_image(*size)
    found, expected = predict(image, model=model, window=window, stride=stride), logits_of(image)
    assert all(side <= window or window == 512 for shape in model.seen for side in shape)
    if window % 4 == 0:
        assert_same_ids(found, expected.ids(), scores_of(expected))
    else:
        assert (found == expected.ids()).mean() > 0.8


def test_the_flip_of_a_symmetric_model_changes_nothing():
    image = sample_image(96, 100)
    plain = logits_of(image)
    for settings in ({}, {"window": 64}):
        assert_same_ids(predict(image, flip=True, **settings), plain.ids(), scores_of(plain))


def test_the_flip_averages_with_the_mirrored_image():
    model = build_segmenter(
        ModelConfig(backbone="test_efficientnet", pyramid_channels=16, decoder_channels=16, weights="none"), 5
    )
    image = sample_image(64, 64)
    flipped = predict(image, model=model, flip=True)
    mirrored = predict(np.ascontiguousarray(image[:, ::-1]), model=model, flip=True)
    assert (flipped == mirrored[:, ::-1]).mean() > 0.99


@pytest.mark.parametrize(("side", "seen"), [(64, (64, 64)), (200, (160, 224)), (None, (96, 128))])
def test_the_model_sees_the_size_that_was_asked_for(side, seen):
    model = PixelModel()
    labels = predict(sample_image(75, 100), model=model, longest_side=side)
    assert model.seen == [seen] and labels.shape == (75, 100)


def test_a_file_is_labelled_at_its_own_size():
    image = cv2.GaussianBlur(sample_image(300, 400), (0, 0), 20)
    data = cv2.imencode(".jpg", cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    predictor = Predictor(PixelModel(), EvalConfig(longest_side=64), CPU)
    assert predictor.logits_of_file(data.tobytes()).ids().shape == (300, 400)


def test_the_model_is_left_as_it_was():
    """Training continues with the student after validation."""
    model = build_segmenter(
        ModelConfig(backbone="test_efficientnet", pyramid_channels=16, decoder_channels=16, weights="none"), 5
    )
    before = {name: (p, p.stride(), p.clone()) for name, p in model.named_parameters()}
    predict(sample_image(64, 64), model=model)
    for name, parameter in model.named_parameters():
        same, stride, values = before[name]
        assert parameter is same and parameter.stride() == stride and torch.equal(parameter, values)


MEMORY = """
import resource, numpy as np, torch
from foodseg.config.evaluation import EvalConfig
from foodseg.config.model import ModelConfig
from foodseg.models.build import build_segmenter
from foodseg.predict.predictor import Predictor

torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = ModelConfig(backbone="test_efficientnet", weights="none", pyramid_channels=16, decoder_channels=16)
model = build_segmenter(config, 26)
predictor = Predictor(model, EvalConfig(), torch.device("cpu"))
image = np.zeros((3000, 4000, 3), np.uint8)
predictor.logits(image[:64, :64], 64, 64).ids_and_confidence(1.3)
before = peak()
ids, confidence = predictor.logits(image, 3000, 4000).ids_and_confidence(1.3)
assert ids.shape == confidence.shape == (3000, 4000)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only: ru_maxrss is in kilobytes there")
def test_twelve_megapixels_and_104_classes_take_at_most_a_gigabyte():
    """All scores at once would be 5 GB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2**18  # kilobytes
