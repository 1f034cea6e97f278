"""How a command ends: exit codes 130 and 75, and one JSON object with --json, whatever happened."""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from foodseg import doctor
from foodseg.cli import run
from foodseg.errors import DataRefused, RetryLater


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
