"""Any names: the class and the command around CLIP with random weights give the same ids; mistakes are sentences."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.classes import ClassTable
from foodseg.cli.main import run as cli
from foodseg.data.image_io import decode_mask
from foodseg.errors import UserError
from foodseg.predict.zero_shot import zero_shot
from tests.support.compare import assert_close
from tests.support.tiny_checkpoints import meal, write_clip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero-shot")
    write_clip(folder / "clip")
    for seed in range(2):
        cv2.imwrite(str(folder / f"meal{seed}.png"), meal(seed, 48 + 16 * seed, 72)[:, :, ::-1])
    return folder


def settings(world: Path, *more: str) -> list[str]:
    return [f"clip.model={world / 'clip'}", "eval.longest_side=64", "eval.window=32", "eval.stride=16", *more]


def test_names_are_the_label_space(world: Path) -> None:
    model = zero_shot("kimchi, white rice|steamed rice", overrides=settings(world), device="cpu")
    assert model.classes == ("background", "kimchi", "white rice") and model.names[1] == "white rice|steamed rice"
    found = model.predict(str(world / "meal0.png"))
    assert found.ids.shape == (48, 72) and set(np.unique(found.ids)) <= {0, 1, 2}
    assert not found.calibrated and found.conditioning is None and found.ingredients_from == "vocabulary"
    both = model.predict([str(world / "meal0.png"), str(world / "meal1.png")], batch_size=1)
    assert np.array_equal(both[0].ids, found.ids) and both[1].ids.shape == (64, 72)


def test_exchanged_names_exchange_class_scores(world: Path) -> None:
    model = zero_shot("kimchi, rice, egg", overrides=settings(world), device="cpu")
    data = (world / "meal0.png").read_bytes()
    scores = model.predictor.logits_of_file(data).values
    other = model.with_names("egg, kimchi, rice").predictor.logits_of_file(data).values
    assert scores.std() > 0
    assert_close(other[[0, 2, 3, 1]], scores)


def test_the_command_gives_the_same_ids(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [part for setting in settings(world) for part in ("--set", setting)]
    image, out = str(world / "meal0.png"), str(tmp_path / "out")
    assert cli(["zero-shot", image, "--names", "kimchi, rice", "--out", out, "--json", *given]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["images"]
    ids = decode_mask((tmp_path / "out" / "meal0.png").read_bytes())
    model = zero_shot(["kimchi", "rice"], overrides=settings(world), device="cpu")
    assert np.array_equal(ids, model.predict(image).ids)
    assert {each["name"] for each in answer["ingredients"]} <= {"kimchi", "rice"} and not answer["calibrated"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".jsonl")[:1] != []
    # said once, of a model that was trained
    assert cli(["zero-shot", image, "--names", "kimchi, rice", "--out", out, *given]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}/meal0.overlay.jpg: ") and "not calibrated" not in said.err


def test_settings_come_from_a_file_too(world: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.yaml").write_text(f"clip:\n  model: {world / 'clip'}\ndense:\n  attention: naclip\n")
    model = zero_shot("rice", config=tmp_path / "clip.yaml", overrides=["dense.threshold=0.5"], device="cpu")
    assert model.config.dense.attention == "naclip" and model.config.dense.threshold == 0.5
    assert model.config.eval.longest_side == 448 and model.config.eval.window == 224
    assert repr(model) == f"ZeroShotSegmenter(rice: CLIP {world / 'clip'} None, naclip, on cpu)"


@pytest.mark.parametrize(
    ("names", "overrides", "message"),
    [
        ("rice", ["clip.model=ViT-B-15"], "clip: open_clip has no model 'ViT-B-15'"),
        ("rice", ["clip.model=ViT-L-14"], "clip: ViT-L-14 needs weights"),
        ("rice", ["dense.attention=proxy"], "dense.external must name an encoder for attention proxy and for no other"),
        ("rice", ["dense.external=sam"], "dense.external must name an encoder for attention proxy and for no other"),
        ("rice", ["dense.prompts=[food]"], r"each prompt must have one \{\} for the name, found 'food'"),
        ("rice", ["eval.ingredients=predicted"], "eval.ingredients must be vocabulary, found predicted"),
        ("rice", ["dense.atention=naclip"], "dense.atention"),
        ("rice, rice", [], "names: 'rice' occurs twice"),
        ("rice", "clip.model=x", r"overrides is a list of settings: give \['clip.model=x'\]"),
    ],
)
def test_mistakes_are_sentences(names: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        zero_shot(names, overrides=overrides, device="cpu")


def test_label_maps_of_many_names_have_16_bits(world: Path) -> None:
    names = [f"dish {number}" for number in range(300)]
    model = zero_shot(names, overrides=settings(world), device="cpu")
    found = model.predict(str(world / "meal0.png"))
    assert found.ids.dtype == np.uint16 and len(ClassTable(found.classes)) == 301
