"""The recipe that is shipped as the best is the one that was measured."""

from foodseg.config import load_config
from proof.step_3 import BEST, BEST_SCORED


def test_the_best_recipe_is_the_one_that_was_measured():
    shipped = load_config("jobs/configs/foodmix_best.yaml", []).config
    measured = load_config("proof/parity.yaml", [*BEST, *BEST_SCORED]).config
    for section in ("augment", "model", "loss", "optim", "eval"):
        assert getattr(shipped, section) == getattr(measured, section), section
    assert shipped.data.repeat_threshold == measured.data.repeat_threshold
    assert shipped.train.global_batch == measured.train.global_batch
