"""Combinations of keys of several sections that have no effect, or cannot work, are refused in one sentence."""

import pytest

from foodseg.config.augment import AugmentConfig
from foodseg.config.load import load_config
from foodseg.errors import UserError

DIFFUSION = ["model.kind=diffusion", "model.backbone=tiny", "model.strides=[8,16,32,64]"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["augment.small_side=0.75"],
            "augment.small_side has no effect while augment.small_updates is 0: set both or neither",
        ),
        (
            ["augment.small_updates=0.5", "augment.small_side=0.9", "augment.crop=96"],
            "augment.crop (96) x augment.small_side (0.9), rounded to a multiple of 32, is 96, not smaller: lower "
            "augment.small_side, or set augment.small_updates to 0",
        ),
        (["augment.small_updates=1"], "augment.small_updates: must be below 1, found 1"),
        (
            [*DIFFUSION, "augment.crop=320", "augment.small_updates=0.5"],
            "augment.crop x augment.small_side must be a multiple of 64 with model.kind = diffusion, found 160",
        ),
        (
            [
                *DIFFUSION, "augment.crop=256", "augment.longest_side=256", "augment.small_updates=0.5",
                "augment.scale=[1, 1]", "augment.contrast=[1, 1]", "augment.brightness=0",
                "train.latent_cache=l", "augment.small_side=0.55",
            ],
            "train.latent_cache needs crops that are the same each time, but these are random: the position of the "
            "crop (augment.crop = 128 is smaller than an image); switch them off, or leave train.latent_cache null",
        ),
    ],
)  # fmt: skip
def test_what_the_parts_of_a_recipe_need(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(None, overrides)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("crop", "side", "small"), [(288, 0.5, 160), (384, 0.5, 192), (512, 0.5, 256), (320, 0.3, 96), (40, 0.1, 32)]
)
def test_the_size_of_small_crops(crop: int, side: float, small: int) -> None:
    """144 is as far from 128 as from 160."""
    augment = AugmentConfig(crop=crop, longest_side=300, small_updates=0.5, small_side=side)
    large, other = augment.sizes
    assert large is augment and (other.crop, other.longest_side) == (small, round(300 * side))
    assert AugmentConfig(crop=crop).sizes == (AugmentConfig(crop=crop),)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["model.stage_heads=true"],
            "model.stage_heads and loss.stage_labels or stage_distill above 0 need each other: found true, 0 and 0",
        ),
        (
            ["loss.privileged_distill=0.5"],
            "model.privileged_head and loss.privileged or privileged_distill above 0 need each other: found false, 0 "
            "and 0.5",
        ),
        (
            ["model.classifier=text_prior"],
            "model.classifier = text_prior needs model.text.kind: table or open_clip",
        ),
        (
            ["model.privileged_head=true", "loss.privileged=0.5"],
            "model.privileged_head needs model.text.kind: table or open_clip",
        ),
        (
            ["model.privileged_head=true", "model.fusion=film", "model.text.kind=table", "model.text.table=t"],
            "model.privileged_head is for an image-only model, and model.fusion is film: set one of them",
        ),
    ],
)
def test_heads_that_only_a_training_has_need_their_losses(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        load_config(None, overrides)
    assert str(refused.value) == sentence
