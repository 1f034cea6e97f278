"""`model.kind: realtime`: sizes are defaults, and what would have no effect is refused in one sentence."""

import pytest

from foodseg.config import ExperimentConfig, parse_config
from foodseg.config.load import with_overrides
from foodseg.errors import UserError

NAMED = ("model.text={kind: table, table: t}", "loss.pixel_text=1")


def realtime(*settings: str, **fields: object) -> ExperimentConfig:
    keys = "".join(f", {key}: {value}" for key, value in fields.items())
    return with_overrides(ExperimentConfig(), [f"model={{kind: realtime{keys}}}", *settings])


@pytest.mark.parametrize(
    ("fields", "strides", "channels"),
    [
        ({}, (8, 16, 32), 128),
        ({"realtime": "{size: M}"}, (8, 16, 32), 128),
        ({"realtime": "{size: S}"}, (8, 16), 64),
        ({"realtime": "{size: S}", "strides": "[4, 8, 16]", "decoder_channels": 32}, (4, 8, 16), 32),
    ],
)
def test_the_size_gives_the_defaults_of_other_keys(fields, strides, channels):
    config = realtime(**fields)
    assert (config.model.strides, config.model.decoder_channels) == (strides, channels)
    assert parse_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.fusion=film"], "model.fusion is not used by model.kind = realtime"),
        (["model.pyramid_channels=64"], "model.pyramid_channels is not used by model.kind = realtime"),
        (["model.classifier=cosine"], "model.classifier is not used by model.kind = realtime"),
        (["model.ingredient_head=true"], "model.ingredient_head is not used by model.kind = realtime"),
        (["model.vit.trained=full"], "model.vit is not used by model.kind = realtime"),
        (["model.strides=[8]"], r"model.strides must be two or more with model.kind = realtime, .* found \[8\]"),
        ([*NAMED, "model.text.gamma=0.1"], "model.text.gamma is not used by model.kind = realtime"),
        (["model.realtime.context_tokens=4"], "context_tokens are tokens of a text tower, and model.text.kind is none"),
        (["model.realtime.context=per_class"], "model.realtime.context_tokens is 0: set it to 4 or 16"),
        (["model.realtime.context_phrase=null"], "model.realtime.context_tokens is 0: set it to 4 or 16"),
        (["model.realtime.size=L"], "model.realtime.size: must be 'S' or 'M', found 'L'"),
        (["model.text={kind: table, table: t}"], "must be above 0, found 0 and 1"),
        ([*NAMED, "loss.cross_entropy=0", "loss.dice=1"], "must be above 0, found 1 and 0"),
        (["loss.pixel_text=1"], r"need model.kind = realtime and model.text.kind table or open_clip"),
        (["loss.image_text=1"], r"need model.kind = realtime and model.text.kind table or open_clip"),
        (["loss.stages=1"], "model.kind = realtime has none: set both to 0"),
        (["optim.stage_two.context_lr=1"], "optim.stage_two is for the context tokens"),
        ([*NAMED, "model.realtime.context_tokens=4", "train.compile=true"], "train.compile does not work with"),
    ],
)
def test_what_would_have_no_effect_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        realtime(*settings)


@pytest.mark.parametrize("setting", ["model.realtime.size=S", "loss.pixel_text=1", "optim.stage_two.begins=0.5"])
def test_other_kinds_do_not_take_its_keys(setting):
    with pytest.raises(UserError, match="realtime"):
        with_overrides(ExperimentConfig(), [setting])
