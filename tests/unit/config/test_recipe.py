"""What `foodseg train` does without a file: the recipe that is shipped for a few hundred images."""

import pytest

from foodseg.config import load_config
from foodseg.config.recipe import load_recipe
from foodseg.config.vit import ViTConfig


def test_without_a_file_it_is_the_recipe_of_the_repository() -> None:
    assert load_recipe().config == load_config("jobs/configs/foodmix.yaml").config
    found = load_recipe(None, ["optim.lr=3e-4", "train.steps=7"])
    assert (found.config.optim.lr, found.config.train.steps, found.config.train.epochs) == (3e-4, 7, None)
    assert found.origins["optim.lr"] == "--set" and found.origins["loss.lovasz"].endswith("recipe.yaml")


def test_a_file_is_all_there_is() -> None:
    assert load_recipe("jobs/configs/smoke.yaml") == load_config("jobs/configs/smoke.yaml")


@pytest.mark.parametrize("override", ["model.backbone=resnet18", "model.weights=none", "model.kind=timm"])
def test_who_names_an_encoder_has_it_alone(override: str) -> None:
    config = load_recipe(None, [override]).config
    assert config.model.vit == ViTConfig() and config.loss.lovasz == 0.5
    with_own = load_recipe(None, [override, "model.vit.backbone=vit_tiny_patch16_224"]).config
    assert with_own.model.vit.backbone == "vit_tiny_patch16_224"
