"""Conditioning: vocabulary, predicted, provided; and how the class scores are restricted."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from foodseg.config.evaluation import EvalConfig
from foodseg.models.segmenter import SegmenterOutput
from foodseg.predict.predictor import RULED_OUT, Predictor, restricted
from tests.support.compare import assert_close

PROBABILITIES = torch.tensor([1.0, 0.49, 0.99, 0.0])


def config(**settings) -> EvalConfig:
    return EvalConfig(longest_side=None, **settings)


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({}, [0.0, 0.0, 0.0, 0.0]),
        ({"restrict": "soft"}, [0, math.log(0.5), 0, math.log(0.01)]),
        ({"restrict": "soft", "restrict_lambda": 2.0}, [0, 2 * math.log(0.5), 0, 2 * math.log(0.01)]),
        ({"restrict": "hard"}, [0, 0, 0, RULED_OUT]),
        ({"restrict": "hard", "ingredients_threshold": 0.5}, [0, RULED_OUT, 0, RULED_OUT]),
    ],
)
def test_restricted_by_hand(settings, change):
    logits = torch.arange(8.0).view(4, 1, 2)
    found = restricted(logits, PROBABILITIES, config(ingredients="predicted", **settings))
    torch.testing.assert_close(found - logits, torch.tensor(change).view(4, 1, 1).expand(4, 1, 2), atol=1e-3, rtol=0)


class ConditionedModel(nn.Module):
    """Stride 4. Logits are 0 but for id 3, which is 1; conditioned, id 1 gets the number of classes."""

    stride, size_multiple, classes = 4, 32, 4

    def __init__(self, fusion: bool = True) -> None:
        super().__init__()
        self.fusion = nn.Identity() if fusion else None
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.conditioning: list[list[bool] | None] = []
        self.predicted_sizes: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor, ingredients: torch.Tensor | None = None) -> SegmenterOutput:
        self.conditioning += [None] * len(image) if ingredients is None else ingredients.tolist()
        logits = torch.zeros(len(image), 4, image.shape[2] // 4, image.shape[3] // 4)
        logits[:, 3] = 1
        if ingredients is not None:
            logits[:, 1] = ingredients[:, 1:].sum(1)[:, None, None]
        return SegmenterOutput(logits, 4, None, logits)

    def predict_ingredients(self, image: torch.Tensor) -> torch.Tensor:
        self.predicted_sizes.append(tuple(image.shape[-2:]))
        return PROBABILITIES.repeat(len(image), 1)


def logits(model: ConditionedModel, provided=None, side: int = 64, **settings):
    predictor = Predictor(model, config(**settings), torch.device("cpu"))
    image = np.zeros((side, side, 3), np.uint8)
    return predictor.logits([image], [(side, side)], None if provided is None else [provided])[0]


def test_the_vocabulary_does_not_condition_the_model():
    model = ConditionedModel()
    found = logits(model)
    assert model.conditioning == [None] and model.predicted_sizes == [] and found.conditioning is None
    assert (found.ids() == 3).all()


def test_provided_classes_condition_the_model():
    model = ConditionedModel()
    found = logits(model, provided=[1, 2], ingredients="provided")
    assert model.conditioning == [[True, True, True, False]] and model.predicted_sizes == []
    assert found.conditioning.tolist() == [True, True, True, False]
    assert (found.ids() == 1).all(), "the classes condition the model"
    model = ConditionedModel()
    assert (logits(model, provided=[2], ingredients="provided", restrict="hard").ids() != 3).all()
    assert (logits(ConditionedModel(), provided=[], ingredients="provided").ids() == 3).all(), (
        "no class, and still no restriction"
    )
    ids, confidence = logits(
        ConditionedModel(), provided=[], ingredients="provided", restrict="hard"
    ).ids_and_confidence(1.0)
    assert (ids == 0).all() and (confidence == 65535).all()


def test_predicted_takes_the_classes_above_the_threshold():
    model = ConditionedModel()
    found = logits(model, ingredients="predicted", flip=True)
    assert model.conditioning == [[True, True, True, False]] * 2 and model.predicted_sizes == [(64, 64)], (
        "predicted once"
    )
    assert found.conditioning.tolist() == [True, True, True, False]
    found = logits(ConditionedModel(), ingredients="predicted", ingredients_threshold=0.6)
    assert found.conditioning.tolist() == [1, 0, 1, 0]


def test_all_windows_of_an_image_have_one_conditioning():
    model = ConditionedModel()
    logits(model, side=96, ingredients="predicted", window=64, stride=32)
    assert model.conditioning == [[True, True, True, False]] * 4
    assert model.predicted_sizes == [(64, 64)], "from the whole image, as large as a window"


def test_image_level_prediction_before_windows_keeps_the_shape_of_the_image():
    """33 x 128 is padded to 64 x 128: in a window of 96 it is 25 x 96, padded to 32 x 96, and not 48 x 96."""
    model = ConditionedModel()
    predictor = Predictor(model, config(ingredients="predicted", window=96), torch.device("cpu"))
    predictor.logits([np.zeros((33, 128, 3), np.uint8)], [(33, 128)])
    assert model.predicted_sizes == [(32, 96)]


def test_each_image_of_a_batch_has_its_own_conditioning():
    model = ConditionedModel()
    predictor = Predictor(model, config(ingredients="provided", restrict="hard", window=64), torch.device("cpu"))
    image = np.zeros((64, 96, 3), np.uint8)
    answers = predictor.logits([image] * 2, [(64, 96)] * 2, [[2], [1, 2]])
    assert model.conditioning == [[True, False, True, False], [True, True, True, False]] * 2, "two windows"
    assert [answer.conditioning.tolist() for answer in answers] == model.conditioning[:2]
    assert [np.unique(answer.ids()).tolist() for answer in answers] == [[0], [1]]


def test_image_level_prediction_is_made_on_the_images_own_canvas():
    """Whatever the canvas of the batch: the head takes the mean over padding too."""
    model = ConditionedModel()
    predictor = Predictor(model, config(ingredients="predicted"), torch.device("cpu"), canvases=((64, 128),))
    sizes = [(64, 128), (60, 100), (64, 97)]
    answers = predictor.logits([np.zeros((*size, 3), np.uint8) for size in sizes], sizes)
    assert model.predicted_sizes == [(64, 128)] and len(answers) == 3, "one canvas: their own"
    model.predicted_sizes.clear()
    sizes = [(64, 128), (33, 128), (64, 110), (50, 120)]
    small = Predictor(model, config(ingredients="predicted"), torch.device("cpu"), canvases=((64, 160),))
    small.logits([np.zeros((*size, 3), np.uint8) for size in sizes], sizes)
    assert model.predicted_sizes == [(64, 128)]


def test_an_image_only_model_is_only_restricted():
    model = ConditionedModel(fusion=False)
    found = logits(model, provided=[1, 2], ingredients="provided", restrict="soft", restrict_lambda=1.0)
    assert model.conditioning == [None] and (found.ids() != 3).all()
    assert_close(found.values[:, 0, 0], torch.tensor([0, math.log(1.01), math.log(1.01), 1 + math.log(0.01)]))
