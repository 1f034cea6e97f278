"""Logit adjustment: by hand, before the scores are restricted, and refused where the training pixels are not known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from foodseg.config.evaluation import EvalConfig
from foodseg.errors import UserError
from foodseg.models.segmenter import SegmenterOutput
from foodseg.predict.predictor import RULED_OUT, Predictor, logit_offsets
from tests.support.compare import assert_close

PIXELS = (600, 300, 0, 100)


class Fixed(nn.Module):
    """Stride 4; the logits of the four classes are 3, 2, 1, 0 everywhere."""

    stride, size_multiple, fusion, classes = 4, 4, None, 4

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, 4, 1)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))

    def forward(self, image: torch.Tensor) -> SegmenterOutput:
        logits = torch.arange(3.0, -1, -1).view(1, 4, 1, 1).expand(len(image), 4, 2, 2)
        return SegmenterOutput(logits, 4, None, logits)


def logits(tau: float, provided=None, **settings) -> torch.Tensor:
    """Returns the (4,) logits of one pixel."""
    config = EvalConfig(longest_side=8, logit_adjustment=tau, **settings)
    predictor = Predictor(Fixed(), config, torch.device("cpu"), class_pixels=PIXELS)
    image = np.zeros((8, 8, 3), np.uint8)
    (found,) = predictor.logits([image], [(8, 8)], None if provided is None else [provided])
    return found.values[:, 0, 0]


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_probabilities_are_those_of_the_formula(tau):
    """Of the three classes with training pixels, pi = 0.6, 0.3, 0.1."""
    own = torch.tensor([3.0, 2.0, 0.0]) - tau * torch.tensor([0.6, 0.3, 0.1]).log()
    assert_close(logits(tau)[[0, 1, 3]].softmax(0), own.softmax(0))


def test_the_commonest_class_and_one_without_training_pixels_keep_their_logits():
    found = logits(1.0)
    assert found[[0, 2]].tolist() == [3, 1]
    assert_close(found[[1, 3]], torch.tensor([2 + math.log(2), math.log(6)]))


def test_without_it_nothing_changes_and_nothing_need_be_known():
    assert torch.equal(logits(0.0), torch.tensor([3.0, 2, 1, 0]))
    assert logit_offsets(EvalConfig(), None) is None


def test_several_sizes_and_mirroring_are_adjusted_once():
    assert_close(logits(1.0, scales=(1.0, 2.0), flip=True), logits(1.0))


def test_scores_are_restricted_after_it():
    found = logits(1.0, provided=[3], ingredients="provided", restrict="hard")
    assert_close(found, logits(1.0) + torch.tensor([0.0, RULED_OUT, RULED_OUT, 0.0]))


def test_a_checkpoint_that_does_not_hold_the_shares_is_refused():
    config = EvalConfig(logit_adjustment=0.5)
    with pytest.raises(UserError) as refused:
        Predictor(Fixed(), config, torch.device("cpu"))
    assert str(refused.value) == (
        "eval.logit_adjustment = 0.5 needs the training pixels of each class, which a checkpoint written by foodseg "
        "0.1.0 does not hold: train again, or set eval.logit_adjustment=0"
    )
