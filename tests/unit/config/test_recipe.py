"""What `foodseg train` does without a file: the recipe that is shipped for a few hundred images."""

from pathlib import Path

import pytest

from foodseg.config import load_config
from foodseg.config.load import to_yaml
from foodseg.config.recipe import load_recipe, load_started
from foodseg.config.vit import ViTConfig


def test_without_a_file_it_is_the_recipe_of_the_repository() -> None:
    assert load_recipe().config == load_config("jobs/configs/foodmix.yaml").config
    found = load_recipe(None, ["optim.lr=3e-4", "train.steps=7"])
    assert (found.config.optim.lr, found.config.train.steps, found.config.train.epochs) == (3e-4, 7, None)
    assert found.origins["optim.lr"] == "--set" and found.origins["loss.lovasz"] == "recipe"


def test_a_file_is_all_there_is() -> None:
    assert load_recipe("jobs/configs/smoke.yaml") == load_config("jobs/configs/smoke.yaml")


@pytest.mark.parametrize("override", ["model.backbone=resnet18", "model.weights=none", "model.kind=timm"])
def test_who_names_an_encoder_has_it_alone(override: str) -> None:
    config = load_recipe(None, [override]).config
    assert config.model.vit == ViTConfig() and config.loss.lovasz == 0.5
    with_own = load_recipe(None, [override, "model.vit.backbone=vit_tiny_patch16_224"]).config
    assert with_own.model.vit.backbone == "vit_tiny_patch16_224"


def test_a_run_is_resumed_as_it_was_started(tmp_path: Path) -> None:
    """Also one that an earlier version started without a file."""
    uri = f"run.uri={tmp_path / 'run'}"
    assert load_started([uri]).config == load_recipe(None, [uri]).config
    started = load_config("jobs/configs/smoke.yaml", [uri, "optim.lr=0.5"]).config
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(started))
    assert load_started([uri]).config == started
    assert load_started([uri, "train.log_every=7"]).config.train.log_every == 7
