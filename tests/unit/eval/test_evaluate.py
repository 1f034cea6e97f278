"""`foodseg.evaluate` in this process: the scores of the command, with or without files, and the test-set access log."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import foodseg
from foodseg.cli.main import run as cli
from foodseg.errors import UserError
from tests.support.api_world import write_api_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_api_world(folder)
    return folder


@pytest.fixture(autouse=True)
def inside(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def test_a_model_and_its_checkpoint_have_the_scores_of_the_command(tmp_path: Path) -> None:
    words = ["evaluate", "runs/a", "--data", "prepared/meals", "--out", str(tmp_path / "cli"), "--workers", "0"]
    assert cli([*words, "--set", "eval.longest_side=48", "--json"]) == 0
    command = json.loads((tmp_path / "cli" / "metrics.json").read_text())

    model = foodseg.load("runs/a", overrides=["eval.longest_side=48"])
    loaded = foodseg.evaluate(model, "prepared/meals")
    named = foodseg.evaluate("runs/a", Path("prepared/meals"), "val", overrides=["eval.longest_side=48"])
    assert replace(loaded, seconds=0) == replace(named, seconds=0)
    found = json.loads(json.dumps(loaded.to_json()))
    assert {**found, "seconds": 0} == {**command, "seconds": 0}
    assert found["images"] == 2 and 0 < found["scores"]["miou"] < 1
    assert foodseg.evaluate("runs/a", "prepared/meals").evaluation != loaded.evaluation, "the settings matter"


def test_files_are_written_only_where_they_are_wanted(tmp_path: Path) -> None:
    before = sorted(path.name for path in Path.cwd().rglob("*"))
    foodseg.evaluate("runs/a", "prepared/meals")
    assert sorted(path.name for path in Path.cwd().rglob("*")) == before
    result = foodseg.evaluate("runs/a", "prepared/meals", out=tmp_path / "out")
    assert {"report.html", "metrics.json", "images.parquet"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert (
        json.loads((tmp_path / "out" / "metrics.json").read_text())["scores"]["miou"] == result.evaluation.scores.miou
    )
    assert not (tmp_path / "out" / "test_access.jsonl").exists()


@pytest.mark.parametrize("given", ["nothing", "out", "test_log"])
def test_every_access_to_test_is_noted(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path.cwd() / "prepared" / "meals"
    model = foodseg.load("runs/a")
    monkeypatch.chdir(tmp_path)
    arguments = {"nothing": {}, "out": {"out": "scores"}, "test_log": {"test_log": "log/t.jsonl"}}[given]
    log = Path({"nothing": "test_access.jsonl", "out": "scores/test_access.jsonl", "test_log": "log/t.jsonl"}[given])
    result = foodseg.evaluate(model, data, "test", **arguments)  # type: ignore[arg-type]
    opened, scored = (json.loads(line) for line in log.read_text().splitlines())
    assert (opened["event"], scored["event"]) == ("opened", "scored")
    assert scored["miou"] == result.evaluation.scores.miou and scored["images"] == 3
    assert list(tmp_path.rglob("test_access.jsonl")) == ([] if given == "test_log" else [tmp_path / log])


def test_it_computes_where_the_model_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # auto would take it
    with caplog.at_level("INFO", "foodseg"):
        foodseg.evaluate(foodseg.load("runs/a", device=torch.device("cpu")), "prepared/meals")
    assert "scoring in this process on CPU" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("runs/b", "prepared/meals"), "neither a checkpoint"),
        (("runs/a", "prepared/other"), "dataset.json"),
        (("runs/a", "prepared/meals", "dev"), "dev"),
        ((None, "prepared/meals"), "give either a CHECKPOINT or --predictions DIR"),
    ],
)
def test_what_cannot_be_evaluated(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        foodseg.evaluate(*arguments)
