"""Labelled picture files: what their JSON says of confidences."""

import json

import cv2
import numpy as np
import pytest
import torch

from foodseg.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint_files import resolve_checkpoint
from foodseg.config.load import with_overrides
from foodseg.data.plates import PLATE_CLASSES, draw_meal
from foodseg.data.sample import decode_image, decode_mask
from foodseg.errors import UserError
from foodseg.predict.label import label_pictures, mean_confidences
from foodseg.predict.predictor import Predictor
from foodseg.train.loop import train
from tests.drawn import drawn_config, write_drawn, write_table
from tests.rank import prepared


def test_mean_confidences_by_hand():
    ids = np.array([[0, 1, 1], [3, 1, 0]], np.uint8)
    confidence = np.array([[65535, 0, 65535], [13107, 0, 0]], np.uint16)
    assert mean_confidences(ids, confidence, 5) == pytest.approx([0.5, 1 / 3, 0, 0.2, 0])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("label")
    config = drawn_config(write_drawn(folder / "data"), folder / "run", "train.steps=3")
    started, context = prepared(config)
    train(started.config, started.manifest, started.total_steps, context)
    return str(folder / "run")


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "lunch.jpg"
    cv2.imwrite(str(path), draw_meal(7, 72, 96)[0][:, :, ::-1])
    return str(path)


@pytest.mark.parametrize("weights", ["ema", "student"])
def test_confidences_are_calibrated_for_the_weights_that_validation_saw(run, picture, tmp_path, weights):
    (result,) = label_pictures(run, [picture], str(tmp_path), [f"eval.weights={weights}"])
    loaded = load_checkpoint(resolve_checkpoint(run))
    assert result["calibrated"] is (weights == "ema")
    temperature = loaded.calibration.temperature if weights == "ema" else 1.0
    assert result["temperature"] == temperature
    assert json.loads((tmp_path / "lunch.json").read_text()) == result

    config = with_overrides(loaded.config, [f"eval.weights={weights}"])
    logits = Predictor(load_model(loaded, weights), config.eval, torch.device("cpu")).logits(
        decode_image((tmp_path.parent / picture).read_bytes()), 72, 96
    )
    ids = decode_mask((tmp_path / "lunch.png").read_bytes())
    np.testing.assert_array_equal(ids, logits.ids())
    scores = logits.at(np.arange(72 * 96)) / temperature
    shares = np.exp(scores - scores.max(0))
    likely = (1 / shares.sum(0)).reshape(72, 96)
    assert result["ingredients"]
    for entry in result["ingredients"]:
        assert entry["confidence"] == pytest.approx(likely[ids == entry["id"]].mean(), abs=1e-4)


@pytest.mark.parametrize("setting", ["eval.longest_side=64", "eval.flip=true", "eval.window=64"])
def test_confidences_are_not_calibrated_for_other_settings(run, picture, tmp_path, setting):
    (result,) = label_pictures(run, [picture], str(tmp_path), [setting])
    assert not result["calibrated"] and result["temperature"] == 1.0


@pytest.fixture(scope="module")
def text_run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("text")
    text = f"model.text={{kind: table, table: {write_table(folder / 't.safetensors')}}}"
    config = drawn_config(
        write_drawn(folder / "data"), folder / "run", "train.steps=2", "model.fusion=cross_attention", text,
        "model.ingredient_head=true", "loss.ingredients=0.1",
    )  # fmt: skip
    started, context = prepared(config)
    train(started.config, started.manifest, started.total_steps, context)
    (folder / "t.safetensors").unlink()
    return str(folder / "run")


def test_a_list_of_ingredients(text_run, picture, tmp_path):
    plain, hard, guessed = (
        label_pictures(text_run, [picture], str(tmp_path / name), overrides, ingredients)[0]
        for name, overrides, ingredients in [
            ("plain", [], None),
            ("hard", ["eval.restrict=hard"], "White Rice, tomato"),
            ("guessed", ["eval.ingredients=predicted", "eval.ingredients_threshold=1e-6"], None),
        ]
    )
    assert plain["ingredients_from"] == "vocabulary" and plain["listed"] is None
    assert hard["ingredients_from"] == "given" and sorted(hard["listed"]) == ["tomato", "white rice"]
    assert {entry["name"] for entry in hard["ingredients"]} <= {"tomato", "white rice"}
    assert guessed["ingredients_from"] == "predicted" and len(guessed["listed"]) == len(PLATE_CLASSES) - 1
    assert not hard["calibrated"], "the temperature is that of the whole vocabulary"


@pytest.mark.parametrize(
    ("overrides", "ingredients", "words"),
    [
        ([], "white rise", "'white rise' is none of the [0-9]+ ingredients; did you mean 'white rice'"),
        (["eval.ingredients=given"], None, 'eval.ingredients = given needs the list: --ingredients "rice, fried tofu"'),
    ],
)
def test_lists_that_are_refused(text_run, picture, tmp_path, overrides, ingredients, words):
    with pytest.raises(UserError, match=words):
        label_pictures(text_run, [picture], str(tmp_path / "o"), overrides, ingredients)
    assert not (tmp_path / "o").exists()


def test_a_list_that_changes_nothing_is_refused(run, picture, tmp_path):
    with pytest.raises(UserError, match=r"eval.ingredients = given changes nothing: the model takes no list"):
        label_pictures(run, [picture], str(tmp_path / "o"), [], "tomato")
    label_pictures(run, [picture], str(tmp_path / "o"), ["eval.restrict=hard"], "tomato")
