"""Images to label maps: padding, batches of one canvas, windows and mirrored images; and memory."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from foodseg.config.evaluation import EvalConfig
from foodseg.config.model import ModelConfig
from foodseg.models.build import build_segmenter
from foodseg.models.segmenter import SegmenterOutput
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.predictor import WINDOWS_AT_ONCE, Predictor
from tests.support.compare import assert_close, assert_same_ids, scores_of

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
    return predictor.logits([image], [image.shape[:2]])[0]


def predict(image: np.ndarray, model=None, **settings) -> np.ndarray:
    return logits_of(image, model, **settings).ids()


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"window": 64}])
def test_images_of_one_canvas_share_each_forward_pass(settings):
    config, model = EvalConfig(longest_side=None, **settings), PixelModel()
    predictor = Predictor(model, config, CPU)
    sizes = [(96, 120), (80, 128), (32, 64), (65, 97)]
    images = [sample_image(*size) for size in sizes]
    answers = predictor.logits(images, sizes)
    passes = {"window": [(64, 64)] * 6}.get(next(iter(settings), ""), [(96, 128)] * (1 + len(settings)))
    assert model.seen == [*passes, *[(32, 64)] * (1 + config.flip)]
    for image, size, answer in zip(images, sizes, answers, strict=True):
        (alone,) = predictor.logits([image], [size])
        assert answer.ids().shape == size
        assert_close(answer.values, alone.values)
        assert_same_ids(answer.ids(), alone.ids(), scores_of(alone))


def test_a_larger_canvas_is_more_padding():
    """In this model no grid cell sees its neighbours, so that it changes nothing."""
    model, sizes = PixelModel(), [(96, 120), (90, 90)]
    images = [sample_image(*size) for size in sizes]
    answers = Predictor(model, EvalConfig(longest_side=None), CPU, canvases=((96, 160),)).logits(images, sizes)
    assert model.seen == [(96, 160), (96, 96)], "160 x 96 would be mostly padding for 90 x 90"
    for image, answer in zip(images, answers, strict=True):
        assert_same_ids(answer.ids(), predict(image), scores_of(logits_of(image)))


def test_no_image_no_pass():
    assert Predictor(PixelModel(), EvalConfig(), CPU).logits([], []) == []


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


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_several_windows_at_once(at_once, monkeypatch):
    """A GPU takes several; two images fill a pass twice as fast."""
    monkeypatch.setitem(WINDOWS_AT_ONCE, "cpu", at_once)
    model, sizes = PixelModel(), [(96, 128), (70, 100)]
    images = [sample_image(*size) for size in sizes]
    counts = []
    model.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
    answers = Predictor(model, EvalConfig(longest_side=None, window=64, stride=32), CPU).logits(images, sizes)
    assert counts == {1: [2] * 6, 4: [4] * 3, 100: [12]}[at_once]  # windows start at 0, 32 and 0, 32, 64
    for image, answer in zip(images, answers, strict=True):
        assert_close(answer.values, logits_of(image).values)


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


@pytest.mark.parametrize(("size", "decoded"), [((768, 1024), (768, 1024)), ((1200, 1600), (150, 200))])
def test_only_large_files_are_decoded_at_a_smaller_scale(size, decoded):
    data = cv2.imencode(".jpg", sample_image(*size))[1].tobytes()
    image, own = Predictor(PixelModel(), EvalConfig(longest_side=128), CPU).decode(data)
    assert own == size and image.shape[:2] == decoded


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
predictor.logits([image[:64, :64]], [(64, 64)])[0].ids_and_confidence(1.3)
before = peak()
ids, confidence = predictor.logits([image], [(3000, 4000)])[0].ids_and_confidence(1.3)
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
