"""How a command ends: exit codes 130 and 75, one JSON object with --json, whatever happened; and a comparison."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foodseg import storage
from foodseg.cli import diagnosis, main
from foodseg.cli.main import run
from foodseg.errors import DataRefused, RetryLater
from foodseg.metrics.per_image import Conditions, ImageCounts, write_image_counts
from foodseg.train.results import TrainingResult


def raising(error: BaseException) -> Callable[..., Any]:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise error

    return refuse


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train -c run.yaml", "interrupted; resume it with --resume"),
        ("ablate -c ablate.yaml", "interrupted; resume it with --resume"),
        ("data prepare src dst", "interrupted; the same command resumes it"),
        ("data inspect dst", "interrupted"),
    ],
)
def test_an_interrupted_command_says_how_it_is_resumed(
    command: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "app", lambda *arguments, **settings: main.EXIT_INTERRUPTED)

    assert run(command.split()) == 130
    assert capsys.readouterr().err == f"foodseg: {sentence}\n"


ENDS = [
    (KeyboardInterrupt(), 130, "interrupted"),
    (RetryLater("the server is away"), 75, "the server is away"),
    (DataRefused("too many bad images"), 3, "too many bad images"),
    (RuntimeError("oh"), 1, "internal error, please report it: RuntimeError: oh"),
]


@pytest.mark.parametrize(("error", "code", "sentence"), ENDS, ids=[str(end[1]) for end in ENDS])
def test_a_command_that_raises(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnosis, "diagnose", raising(error))

    assert run(["doctor"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1] == f"foodseg: {sentence}"

    assert run(["doctor", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"message": sentence, "exit_code": code}}


def test_a_run_that_was_asked_to_stop_gives_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = TrainingResult(step=7, stopped=True, miou=None, run="r")
    trainer = SimpleNamespace(run_training=lambda *arguments, **settings: result)
    monkeypatch.setitem(sys.modules, "foodseg.train.ray_trainer", trainer)

    assert run(["train", "--json"]) == 130
    out, err = capsys.readouterr()
    assert json.loads(out) == {"step": 7, "stopped": True, "miou": None, "run": "r"}
    assert err == "foodseg: stopped after 7 steps; run it again with --resume\n"

    assert run(["train"]) == 130
    assert capsys.readouterr() == ("", "foodseg: stopped after 7 steps; run it again with --resume\n")


ORACLE = {"ingredients": "provided", "restrict": "hard", "weights": "ema"}
PLAIN = {"ingredients": "vocabulary", "restrict": "none", "weights": "student"}


def test_a_comparison_names_the_conditions_of_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = [ImageCounts.from_matrix("p", "p", np.diag([3, 4]))]
    for name, facts in {"oracle": ORACLE, "plain": PLAIN, "maps": None}.items():
        conditions = None if facts is None else Conditions(**facts)
        write_image_counts(
            str(tmp_path / name / "images.parquet"), counted, ("background", "rice"), "val", "d", conditions
        )
    oracle, plain, maps = (str(tmp_path / name) for name in ("oracle", "plain", "maps"))

    assert run(["evaluate", "--compare", oracle, plain, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["a"], answer["b"]) == (oracle, plain) and answer["miou"]["difference"] == 0
    assert answer["conditions"] == {"a": ORACLE, "b": PLAIN} and answer["oracles"] == ["a"]

    assert run(["evaluate", "--compare", oracle, plain]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"A: {oracle} (ingredients provided, oracle, restrict hard; ema weights)",
        f"B: {plain} (ingredients vocabulary; student weights)",
        "",
    ]
    assert lines[3].startswith("| measure |")

    assert run(["evaluate", "--compare", maps, plain]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"A: {maps} (label maps)"
    assert run(["evaluate", "--compare", maps, plain, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["conditions"] == {"a": None, "b": PLAIN} and answer["oracles"] == []


# --- first contact ---


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict"], "Missing argument 'checkpoint'; for example: foodseg predict runs/a lunch.jpg dinner.jpg --out "),
        (["predict", "lunch.jpg"], "Missing argument 'images'; for example: foodseg predict runs/a lunch.jpg "),
        (["train", "c.yaml"], "Got unexpected extra argument(s) (c.yaml); for example: foodseg train -c "),
        (["tune"], "Missing option '--config' / '-c'; for example: foodseg tune -c jobs/configs/sweep.yaml "),
        (["data", "prepare", "my"], "Missing argument 'dst'; for example: foodseg data prepare my/meals s3://"),
        (["config", "diff"], "Missing argument 'a'; for example: foodseg config diff runs/a/config.yaml "),
        (
            ["config", "show", "--set", "run.uri"],
            "--set 'run.uri': expected section.key=value, for example optim.lr=3e-4",
        ),
    ],
)
def test_a_missing_argument_shows_an_example(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"foodseg: {sentence}"), said[-1]
    assert not any(tmp_path.iterdir())


def test_an_image_in_place_of_the_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my lunch #1.JPG").touch()
    assert run(["predict", "my lunch #1.JPG", "b.png", "runs/a b", "--out", "out"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    right = ["foodseg", "predict", "runs/a b", "my lunch #1.JPG", "b.png", "--out", "out"]
    assert said == f"foodseg: my lunch #1.JPG is an image, and the checkpoint comes first: {shlex.join(right)}"


def test_blanks_within_a_name_survive_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "diff", "a  b.yaml", "c.yaml"]) == 2
    assert "cannot read a  b.yaml: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("odd", ["runs/t #1", "runs/it's", "runs/a\u00fc \u5bff", "runs/$HOME", "s3://b/a b?region=eu"])
def test_printed_commands_can_be_pasted(
    odd: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = TrainingResult(step=4, stopped=False, miou=None, run=odd)
    trainer = SimpleNamespace(run_training=lambda *arguments, **settings: result)
    monkeypatch.setitem(sys.modules, "foodseg.train.ray_trainer", trainer)
    assert run(["train", "--set", f"run.uri={odd}"]) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    words = shlex.split(line.removeprefix("next: "))
    assert words[:3] == ["foodseg", "evaluate", odd] and words[-1] == storage.join(odd, "test")
    assert words[3:-1] == ["--data", "...", "--split", "test", "--out"]
