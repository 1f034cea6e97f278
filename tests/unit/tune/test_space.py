"""The search space: what is read, what is refused, what is drawn."""

import math
from typing import Any

import numpy as np
import pytest

from foodseg.config import parse_config
from foodseg.errors import UserError
from foodseg.tune.space import RandomSource, check_space, configured, parse_space

FILM = {"model.fusion": "film", "model.ingredient_head": True, "loss.ingredients": 0.2, "model.text.kind": "table",
        "model.text.table": "names.safetensors"}  # fmt: skip
SPACE: dict[str, Any] = {
    "fusion": {"options": {"none": None, "film": FILM}},
    "distill.conditioning_mix": {"choice": [[1, 0, 0, 0], [0.5, 0.15, 0.2, 0.15]], "when": {"fusion": "film"}},
    "loss.distill": {"uniform": [0, 1]},
    "distill.temperature": {"loguniform": [1, 4]},
    "train.micro_batch": {"int": [4, 6]},
}


def test_every_value_lies_in_its_range() -> None:
    space = parse_space(SPACE)
    drawn = [space.draw(RandomSource(np.random.default_rng(seed))) for seed in range(200)]
    assert all(0 <= values["loss.distill"] <= 1 for values in drawn)
    logs = [math.log(values["distill.temperature"]) for values in drawn]
    assert min(logs) >= 0 and max(logs) <= math.log(4) and np.mean(logs) == pytest.approx(math.log(4) / 2, abs=0.1)
    assert {values["train.micro_batch"] for values in drawn} == {4, 5, 6}
    assert {values["fusion"] for values in drawn} == {"none", "film"}


def test_a_hyperparameter_is_drawn_only_where_it_is_used() -> None:
    space = parse_space(SPACE)
    drawn = [space.draw(RandomSource(np.random.default_rng(seed))) for seed in range(40)]
    assert {(values["fusion"], "distill.conditioning_mix" in values) for values in drawn} == {
        ("none", False),
        ("film", True),
    }


def test_settings_become_a_configuration() -> None:
    space = parse_space(SPACE)
    values = {
        "fusion": "film",
        "distill.conditioning_mix": "[1, 0, 0, 0]",
        "loss.distill": 1e-7,
        "distill.temperature": 2.0,
    }
    config = configured(parse_config({}), space.settings(values))
    assert config.model.fusion == "film" and config.loss.ingredients == 0.2
    assert config.distill.conditioning_mix == (1, 0, 0, 0)
    assert config.loss.distill == 1e-7 and config.train.micro_batch == 16


def test_a_grid_is_every_combination_once() -> None:
    space = parse_space({
        "fusion": {"options": {"none": {}, "film": FILM}},
        "model.text.gamma": {"choice": [0, 1], "when": {"fusion": ["film"]}},
        "train.micro_batch": {"int": [1, 2]},
    })  # fmt: skip
    found = [tuple(values.values()) for values in space.grid()]
    film = [("film", gamma, batch) for gamma in ("0", "1") for batch in (1, 2)]
    assert found == [("none", 1), ("none", 2), *film]


def test_a_range_has_no_grid() -> None:
    with pytest.raises(UserError, match=r"loss\.distill: sweep\.searcher = grid needs"):
        list(parse_space(SPACE).grid())


def test_a_space_that_fits_is_let_pass() -> None:
    check_space(parse_space(SPACE), parse_config({}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"loss.distil": {"uniform": [0, 1]}}, r"unknown key 'loss.distil'; did you mean loss.distill or"),
        ({"loss.distill": {"uniform": [-1, 1]}}, r"loss.distill: must be at least 0, found -1"),
        ({"optim.schedule": {"choice": ["poly", "step"]}}, r"optim.schedule: must be .*found 'step'"),
        ({"distill.conditioning_mix": {"choice": [[1, 1, 0, 0]]}}, r"four shares of at least 0 that add up to 1"),
        ({"model.fusion": {"choice": ["none", "film"]}}, r"model.fusion = film needs model.text.kind.*tried with"),
        ({"train.global_batch": {"uniform": [8, 16]}}, r"train.global_batch: must be a whole number"),
        ({"train.global_batch": {"int": [4, 5]}, "scaling.num_workers": {"choice": [2]}}, "cannot be searched"),
    ],
)
def test_values_that_make_no_configuration_are_named(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_space(parse_space(space), parse_config({}))


def test_a_large_space_is_tried_in_part() -> None:
    shares = [index / 30 for index in range(30)]
    space: dict[str, Any] = {"distill.drop": {"choice": shares}, "distill.ramp": {"choice": shares}}
    space["distill.temperature"] = {"uniform": [50, 101]}
    with pytest.raises(UserError, match=r"distill\.temperature: must be at most 100, found 101"):
        check_space(parse_space(space), parse_config({}))


def test_a_wrong_key_is_found_in_a_large_space() -> None:
    labels = {f"option {index}": None for index in range(30)}
    space: dict[str, Any] = {"a": {"options": labels}, "b": {"options": labels}}
    space["c"] = {"options": {"right": None, "wrong": {"loss.distil": 1}}, "when": {"a": "option 3", "b": "option 5"}}
    with pytest.raises(UserError, match=r"space: c: .*unknown key 'loss.distil'"):
        check_space(parse_space(space), parse_config({}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (None, "space: must name what is searched"),
        ({}, "space: must name what is searched"),
        ({"loss.distill": [0, 1]}, "give one of choice, options, uniform, loguniform, int"),
        ({"loss.distill": {"normal": [0, 1]}}, "found 'normal'"),
        ({"loss.distill": {"uniform": [0, 1], "choice": [1]}}, "found 'uniform', 'choice'"),
        ({"loss.distill": {"uniform": [1, 0]}}, "two numbers, the lower one first"),
        ({"loss.distill": {"loguniform": [0, 1]}}, "two numbers above 0"),
        ({"train.micro_batch": {"int": [1, 2.5]}}, "two whole numbers"),
        ({"loss.distill": {"choice": []}}, "choice must be a list"),
        ({"loss": {"choice": [1]}}, "must be a key of the configuration"),
        ({"loss.kind": {"options": {"a": {}}}}, "options need a name without a dot"),
        ({"kind": {"options": ["a"]}}, "options must be names"),
        ({"run.uri": {"choice": ["a"]}}, "run.uri cannot be searched"),
        ({"kind": {"options": {"a": {"data.val_split": "test"}}}}, "data.val_split cannot be searched"),
        (
            {"loss.distill": {"uniform": [0, 1], "when": {"fusion": "film"}}},
            "'fusion' is not a hyperparameter with choices",
        ),
        (
            {**SPACE, "loss.dice": {"uniform": [0, 1], "when": {"fusion": "text"}}},
            "fusion is never text; it may be none",
        ),
        ({"kind": {"options": {"a": {"loss.dice": 1}}}, "loss.dice": {"choice": [1]}}, "both set loss.dice"),
    ],
)
def test_what_is_no_space_is_refused(space: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_space(space)
