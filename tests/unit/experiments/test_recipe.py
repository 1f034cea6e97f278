"""The recipes that are shipped as the best and as the best cheap one are those that were measured."""

import pytest

from experiments.foodmix_runs import RECIPE
from experiments.variants import BEST, BEST_SCORED, CHEAP, CHEAP_SCORED, Settings
from foodseg.config import load_config


@pytest.mark.parametrize(
    ("file", "recipe"),
    [("foodmix_best.yaml", (*BEST, *BEST_SCORED)), ("foodmix.yaml", (*CHEAP, *CHEAP_SCORED))],
)
def test_what_is_shipped_is_what_was_measured(file: str, recipe: Settings) -> None:
    shipped = load_config(f"jobs/configs/{file}", ["model.vit.weights={vit}"]).config
    measured = load_config(RECIPE, recipe).config
    for section in ("augment", "model", "loss", "optim", "eval"):
        assert getattr(shipped, section) == getattr(measured, section), section
    assert shipped.data.repeat_threshold == measured.data.repeat_threshold
    assert shipped.train.global_batch == measured.train.global_batch
