"""CLIP without training as what is scored: by the class names of the data set, or by given ones and a map."""

import json
from pathlib import Path

import pytest

import foodseg
from foodseg.cli.main import run as cli
from foodseg.config.zero_shot import parse_zero_shot_config
from foodseg.errors import UserError
from tests.support.api_world import write_api_world

SETTINGS = ["clip.model=models/clip", "eval.longest_side=64", "eval.window=32"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_api_world(folder)
    return folder


@pytest.fixture(autouse=True)
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def test_the_command_and_the_function_give_the_same_scores(tmp_path: Path) -> None:
    given = [part for setting in SETTINGS for part in ("--set", setting)]
    out = str(tmp_path / "out")
    words = ["evaluate", "--zero-shot", "--data", "prepared/meals", "--split", "test", "--workers", "0", "--out", out]
    assert cli([*words, *given, "--json"]) == 0
    command = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert command["zero_shot"] == "models/clip" and command["dense"]["attention"] == "clearclip"
    log = [json.loads(line) for line in (tmp_path / "out" / "test_access.jsonl").read_text().splitlines()]
    assert [each["what"] for each in log] == ["zero-shot models/clip"] * 2 and log[0]["config_hash"]
    assert "CLIP models/clip, without training" in (tmp_path / "out" / "report.md").read_text()

    config = parse_zero_shot_config(None, SETTINGS)
    here = foodseg.evaluate(config, "prepared/meals", "test", test_log=str(tmp_path / "log"))
    found = json.loads(json.dumps(here.to_json()))
    assert {**found, "seconds": 0} == {**command, "seconds": 0} and found["images"] == 3
    assert "zero-shot models/clip" in repr(here)


def test_a_model_with_names_is_scored_in_its_own_label_space(tmp_path: Path) -> None:
    names = foodseg.load("runs/a").classes[1:]
    model = foodseg.zero_shot(list(names), overrides=SETTINGS)
    same = foodseg.evaluate(parse_zero_shot_config(None, SETTINGS), "prepared/meals")
    assert foodseg.evaluate(model, "prepared/meals").evaluation.scores.miou == same.evaluation.scores.miou
    with pytest.raises(UserError, match="label space"):
        foodseg.evaluate(model.with_names("kimchi, rice"), "prepared/meals")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/a", "--zero-shot"], "give either a CHECKPOINT or --zero-shot, and not both"),
        (["runs/a", "--config", "clip.yaml"], "--config is for --zero-shot"),
        (["--zero-shot", "--predictions", "maps"], "give either a CHECKPOINT or --predictions DIR, and not both"),
        (["--zero-shot", "--provided", "x.tsv"], "--provided is for a trained model, and CLIP is not conditioned on"),
    ],
)
def test_what_does_not_go_together(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", "prepared/meals", "--out", "out", "--workers", "0"]
    assert cli(["evaluate", *words, *where]) == 2
    assert message in capsys.readouterr().err
