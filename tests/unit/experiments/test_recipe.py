"""The recipe that is shipped as the best is the one that was measured."""

from experiments.foodmix_runs import RECIPE
from experiments.variants import BEST, BEST_SCORED
from foodseg.config import load_config


def test_the_best_recipe_is_the_one_that_was_measured() -> None:
    shipped = load_config("jobs/configs/foodmix_best.yaml", ["model.vit.weights={vit}"]).config
    measured = load_config(RECIPE, [*BEST, *BEST_SCORED]).config
    for section in ("augment", "model", "loss", "optim", "eval"):
        assert getattr(shipped, section) == getattr(measured, section), section
    assert shipped.data.repeat_threshold == measured.data.repeat_threshold
    assert shipped.train.global_batch == measured.train.global_batch
