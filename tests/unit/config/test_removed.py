"""Keys that earlier versions wrote: they have no effect, which is said where they once had one."""

import logging

import pytest

from foodseg.config import ExperimentConfig, load_config
from foodseg.config.load import from_yaml
from foodseg.config.removed import REMOVED, without_removed


@pytest.mark.parametrize(
    ("given", "warns"),
    [
        (["train.average=uniform"], "train.average = uniform"),
        (["train.average=ema"], None),
        (["augment.small_updates=0.7", "augment.small_side=0.5"], "augment.small_updates = 0.7"),
        (["augment.small_updates=0.0"], None),
    ],
)
def test_a_removed_key_has_no_effect(given: list[str], warns: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "foodseg"):
        assert load_config(None, given).config == ExperimentConfig()
    said = [record.getMessage() for record in caplog.records]
    assert said == ([f"{warns} has no effect any more: it was removed, since it gained nothing"] if warns else [])


def test_in_a_file_too() -> None:
    assert from_yaml("train:\n  average: uniform\n  steps: 7\n", "x.yaml").train.steps == 7


def test_what_is_left_is_not_changed() -> None:
    tree = {"train": {"average": "ema", "steps": 3}, "optim": {"lr": 1.0}}
    assert without_removed(tree) == {"train": {"steps": 3}, "optim": {"lr": 1.0}}
    assert tree["train"] == {"average": "ema", "steps": 3}
    assert without_removed({"train": None}) == {"train": None}


def test_no_removed_key_is_in_use() -> None:
    for key in REMOVED:
        section, _, name = key.partition(".")
        assert name not in type(getattr(ExperimentConfig(), section)).model_fields
