"""A run does not delete the checkpoint that somebody serves."""

import json
import time
from pathlib import Path

import pytest

from foodseg import storage
from foodseg.checkpoint.history import Validation
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.checkpoint.run_pointers import prune_checkpoints, write_pointers
from foodseg.checkpoint.served import HOLD_SECONDS, held, hold


def steps(run: Path) -> list[int]:
    return [int(name.removeprefix("step-")) for name in storage.list_names(str(run / "checkpoints"))]


def train(run: Path, *written: int) -> None:
    """Writes checkpoints as a run does, each better than the one before."""
    history: list[Validation] = []
    for step in written:
        storage.write_text(f"{checkpoint_uri(str(run), step)}/manifest.json", str(step))
        history.append(Validation(step, step / 100, aacc=0.5, macc=0.5, miou_student=0.1))
        write_pointers(str(run), step, history)
        prune_checkpoints(str(run), step, keep=2)


def test_it_is_kept_while_it_is_served_and_goes_a_week_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    train(run, 1)
    hold(checkpoint_uri(str(run), 1))
    train(run, 2, 3, 4)
    assert steps(run) == [1, 3, 4]
    assert held(str(run)) == {"step-00000001"}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + HOLD_SECONDS - 60)
    hold(checkpoint_uri(str(run), 1))  # the endpoint renews it
    monkeypatch.setattr(time, "time", lambda: now + HOLD_SECONDS + 60)
    train(run, 5)
    assert steps(run) == [1, 4, 5]
    monkeypatch.setattr(time, "time", lambda: now + 3 * HOLD_SECONDS)
    train(run, 6)
    assert steps(run) == [5, 6]
    assert storage.list_names(str(run / "served")) == []


def test_without_a_note_nothing_changes(tmp_path: Path) -> None:
    train(tmp_path / "run", 1, 2, 3, 4)
    assert steps(tmp_path / "run") == [3, 4]
    hold(str(tmp_path / "exported"))  # in no run: nobody deletes it
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", json.dumps({"until": "soon"})])
def test_a_note_that_cannot_be_read_counts(tmp_path: Path, text: str) -> None:
    run = tmp_path / "run"
    train(run, 1)
    storage.write_text(str(run / "served" / "step-00000001.json"), text)
    train(run, 2, 3, 4)
    assert steps(run) == [1, 3, 4]
