"""Combinations of keys of several sections that have no effect, or cannot work, are refused in one sentence."""

import pytest

from foodseg.config.load import load_config
from foodseg.errors import UserError


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
