"""Combinations of keys of several sections that have no effect, or cannot work, are refused in one sentence."""

import pytest

from foodseg.config.load import load_config
from foodseg.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["train.average=uniform", "train.ema_horizon=0", "eval.weights=student"],
            "train.average = uniform needs train.ema_horizon above 0, the share of the steps that is averaged; 0.2 is "
            "the last fifth",
        ),
        (
            ["train.average=uniform", "loss.distill=1"],
            "loss.distill, features, stages, deeper and attention need a teacher that averages from the start, and "
            "train.average = uniform averages the last updates alone: set train.average to ema, or all of these "
            "weights to 0",
        ),
    ],
)
def test_what_the_parts_of_a_recipe_need(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(None, overrides)
    assert str(refused.value) == sentence
