"""An image at several sizes: which the model sees, on which grid their scores are averaged, alone and in batches."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from foodseg.config.evaluation import EvalConfig
from foodseg.models.segmenter import SegmenterOutput
from foodseg.predict.image_logits import ImageLogits, mean_of_views
from foodseg.predict.predictor import Predictor
from tests.support.compare import assert_close

CPU = torch.device("cpu")
SIZES = [(96, 120), (80, 128), (60, 97), (128, 100)]


class ShownSize(nn.Module):
    """Stride 4. Logits: 0, the mean colour of the cell, and the width of what is shown."""

    stride, size_multiple, classes = 4, 32, 3

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.classifier = nn.Conv2d(3, 3, 1)
        self.fusion = nn.Identity()
        self.seen: list[tuple[int, ...]] = []
        self.conditioning: list[list[bool]] = []

    def forward(self, image: torch.Tensor, ingredients: torch.Tensor | None = None) -> SegmenterOutput:
        self.seen.append(tuple(image.shape[-2:]))
        self.conditioning += [] if ingredients is None else ingredients.tolist()
        cells = nn.functional.avg_pool2d(image, 4).mean(1, keepdim=True)
        wide = torch.full_like(cells, float(image.shape[-1]))
        return SegmenterOutput(torch.cat([0 * cells, cells, wide], 1), 4, None, cells)

    def predict_ingredients(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1.0, 0.1, 0.3 if image.shape[-1] < 100 else 0.2]).repeat(len(image), 1)


def sample_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def predictor(model: ShownSize | None = None, canvases=(), **settings) -> Predictor:
    return Predictor(model or ShownSize(), EvalConfig(**{"longest_side": 64, **settings}), CPU, canvases=canvases)


def logits(found: Predictor, *images: np.ndarray, provided=None) -> list[ImageLogits]:
    return found.logits(images, [image.shape[:2] for image in images], provided)


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"window": 48}, {"ingredients": "predicted"}])
@pytest.mark.parametrize(("side", "scale", "same"), [(64, 1.5, 96), (64, 0.75, 48), (64, 1.0, 64), (None, 1.0, None)])
def test_one_scale_is_that_size_to_the_bit(settings, side, scale, same):
    image = sample_image(75, 100)
    (found,) = logits(predictor(longest_side=side, scales=(scale,), **settings), image)
    (expected,) = logits(predictor(longest_side=same, **settings), image)
    assert torch.equal(found.values, expected.values) and found.fitted == expected.fitted


def test_without_a_longest_side_the_scales_are_of_the_images_own():
    model = ShownSize()
    logits(predictor(model, longest_side=None, scales=(0.5, 1.0)), sample_image(128, 64))
    assert model.seen == [(64, 32), (128, 64)]


@pytest.mark.parametrize("scales", [(0.5, 1.0, 2.0), (2.0, 1.0, 0.5)])
def test_the_grid_is_that_of_the_largest_size_whatever_their_order(scales):
    model = ShownSize()
    (found,) = logits(predictor(model, scales=scales, flip=True), sample_image(32, 64))
    assert sorted(model.seen) == [(32, 32), (32, 32), (32, 64), (32, 64), (64, 128), (64, 128)]
    assert found.fitted == (64, 128) and found.values.shape == (3, 16, 32)
    assert_close(found.values[2], torch.full((16, 32), (32.0 + 64 + 128) / 3))


def test_smaller_grids_are_resized_to_the_centres_of_the_largest_by_hand():
    """A ramp over the image stays that ramp; next to the border the outermost cell of the smaller grid counts."""
    large = ImageLogits(torch.tensor([[[0.5, 1.5, 2.5, 3.5]]]), 4, (4, 16), 10, 40)
    small = ImageLogits(torch.tensor([[[1.0, 3.0]]]), 4, (2, 8), 10, 40)
    assert mean_of_views([large]) is large
    for views in ([large, small], [small, large]):
        found = mean_of_views(views)
        assert (found.fitted, found.height, found.width, found.stride) == ((4, 16), 10, 40, 4)
        assert found.values.flatten().tolist() == [(0.5 + 1) / 2, 1.5, 2.5, (3.5 + 3) / 2]


def test_padding_of_a_smaller_size_does_not_shift_its_grid():
    """100 x 60 at 64 x 38: the smaller grid has more padding than the larger one, on other sides."""
    ramp = np.tile(np.linspace(0, 255, 100, dtype=np.uint8)[None, :, None], (60, 1, 3))
    (one,) = logits(predictor(longest_side=100), ramp)
    (both,) = logits(predictor(longest_side=100, scales=(0.64, 1.0)), ramp)
    inside = (slice(0, 14), slice(1, 23))
    assert (one.values[1][inside] - both.values[1][inside]).abs().max() < 0.01, "a hundredth of the ramp is one pixel"


@pytest.mark.parametrize(
    "settings", [{}, {"flip": True}, {"window": 40}, {"ingredients": "predicted"}, {"longest_side": None}]
)
@pytest.mark.parametrize("canvases", [(), ((96, 96), (128, 128), (64, 64))])
def test_batches_give_the_scores_of_each_image_alone(settings, canvases):
    found = predictor(canvases=canvases, scales=(0.5, 1.0, 1.25), **settings)
    images = [sample_image(*size, seed) for seed, size in enumerate(SIZES)]
    for image, answer in zip(images, logits(found, *images), strict=True):
        (alone,) = logits(found, image)
        assert_close(answer.values, alone.values)
        assert answer.fitted == alone.fitted and np.array_equal(answer.conditioning, alone.conditioning)


def test_images_of_one_canvas_share_a_pass_at_each_scale_where_they_can():
    model = ShownSize()
    found = predictor(model, longest_side=128, scales=(1.0, 0.5))
    logits(found, sample_image(64, 128), sample_image(34, 128))
    assert model.seen == [(64, 128), (32, 64)], "34 x 128 at half its size is 17 x 64"
    model.seen.clear()
    logits(found, sample_image(96, 128), sample_image(65, 128))
    assert model.seen == [(96, 128), (64, 64), (32, 64)], "48 x 64 and 32 x 64"


def test_the_image_level_prediction_is_the_mean_over_the_sizes():
    """0.3 at 64 pixels, 0.2 at 128: 0.25."""
    model, settings = ShownSize(), {"scales": (1.0, 2.0), "ingredients": "predicted"}
    for threshold, chosen in [(0.24, True), (0.26, False)]:
        (found,) = logits(predictor(model, ingredients_threshold=threshold, **settings), sample_image(64, 64))
        assert found.conditioning.tolist() == [True, False, chosen]
    assert model.conditioning == 2 * [[True, False, True]] + 2 * [[True, False, False]]


def test_the_scores_are_restricted_once():
    (found,) = logits(
        predictor(scales=(1.0, 0.5), ingredients="provided", restrict="soft"), sample_image(64, 64), provided=[[1]]
    )
    (free,) = logits(predictor(scales=(1.0, 0.5), ingredients="provided"), sample_image(64, 64), provided=[[1]])
    assert_close(found.values[2] - free.values[2], torch.full((16, 16), math.log(0.01)))


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, 1.0), (20.0,), (-1.0, 1.0)])
def test_scales_that_mean_nothing_are_refused(scales):
    with pytest.raises(ValidationError, match=r"scales"):
        EvalConfig(scales=scales)


def test_sizes_that_no_model_takes_are_refused():
    with pytest.raises(ValidationError, match=r"eval.longest_side \(8\) x eval.scales must be .* found \[2, 8\]"):
        EvalConfig(longest_side=8, scales=(0.25, 1.0))
