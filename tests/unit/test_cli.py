"""How a command ends: exit codes 130 and 75, one JSON object with --json, whatever happened; and a comparison."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foodseg import doctor
from foodseg.cli import run
from foodseg.errors import DataRefused, RetryLater
from foodseg.eval.pictures import PictureCounts, write_pictures


def raising(error: BaseException) -> Callable[..., Any]:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise error

    return refuse


ENDS = [
    (KeyboardInterrupt(), 130, "interrupted; a training run goes on with --resume"),
    (RetryLater("the server is away"), 75, "the server is away"),
    (DataRefused("too many bad pictures"), 3, "too many bad pictures"),
    (RuntimeError("oh"), 1, "internal error, please report it: RuntimeError: oh"),
]


@pytest.mark.parametrize(("error", "code", "sentence"), ENDS, ids=[str(end[1]) for end in ENDS])
def test_a_command_that_raises(
    error: BaseException, code: int, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", raising(error))

    assert run(["doctor"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1] == f"foodseg: {sentence}"

    assert run(["doctor", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"message": sentence, "exit_code": code}}


def test_a_run_that_was_asked_to_stop_gives_its_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"step": 7, "stopped": True, "miou": None, "run": "r"}
    trainer = SimpleNamespace(run_training=lambda *arguments, **settings: result)
    monkeypatch.setitem(sys.modules, "foodseg.train.ray_trainer", trainer)

    assert run(["train", "--json"]) == 130
    out, err = capsys.readouterr()
    assert json.loads(out) == result
    assert err == "foodseg: stopped after 7 steps; go on with --resume\n"

    assert run(["train"]) == 130
    assert capsys.readouterr() == ("", "foodseg: stopped after 7 steps; go on with --resume\n")


ORACLE = {"ingredients": "given", "restrict": "hard", "weights": "ema"}
PLAIN = {"ingredients": "vocabulary", "restrict": "none", "weights": "student"}


def test_a_comparison_names_the_conditions_of_both_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = [PictureCounts.from_matrix("p", "p", np.diag([3, 4]))]
    for name, conditions in {"told": ORACLE, "plain": PLAIN, "maps": None}.items():
        write_pictures(
            str(tmp_path / name / "pictures.parquet"), counted, ("background", "rice"), "val", "d", conditions
        )
    told, plain, maps = (str(tmp_path / name) for name in ("told", "plain", "maps"))

    assert run(["evaluate", "--compare", told, plain, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["a"], answer["b"]) == (told, plain) and answer["miou"]["difference"] == 0
    assert answer["conditions"] == {"a": ORACLE, "b": PLAIN} and answer["oracles"] == ["a"]

    assert run(["evaluate", "--compare", told, plain]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"A: {told} (ingredients given, oracle, restrict hard; ema weights)",
        f"B: {plain} (ingredients vocabulary; student weights)",
        "",
    ]
    assert lines[3].startswith("| measure |")

    assert run(["evaluate", "--compare", maps, plain]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"A: {maps} (label maps, or an older evaluation that does not note its conditions)"
    assert run(["evaluate", "--compare", maps, plain, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["conditions"] == {"a": None, "b": PLAIN} and answer["oracles"] == []
