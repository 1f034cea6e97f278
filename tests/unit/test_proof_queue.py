"""The queue of `make proof` with made-up items: nothing is run twice, nothing that failed is recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from proof import proof_queue, step_1
from proof.proof_queue import Bench, Item, ItemError, read_evidence, run_queue, write_json


class Queue:
    """Items a, b, c that count their calls; the names in `broken` fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.evidence = folder, folder / "evidence" / "step-9.json"
        self.calls: list[str] = []
        self.broken: set[str] = set()

    def item(self, name: str) -> Item:
        def function(bench: Bench) -> dict[str, Any]:
            self.calls.append(name)
            bench.commands.append(f"run {name}")
            if name in self.broken:
                raise ItemError(f"{name} cannot be shown")
            return {"call": len(self.calls)}

        return name, function

    def run(self, **options: Any) -> list[str]:
        bench = lambda: Bench(work=self.folder, shared=self.folder / "shared")  # noqa: E731
        return run_queue([self.item(name) for name in "abc"], self.evidence, bench, **options)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def test_each_part_is_written_once(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    assert queue.run() == []
    parts = read_evidence(queue.evidence)
    assert list(parts) == ["a", "b", "c"]
    assert set(parts["b"]) == {"command", "commit", "config_hash", "figures", "seconds", "finished"}
    assert parts["b"]["command"] == ["run b"] and parts["b"]["figures"] == {"call": 2}
    assert queue.run() == [] and queue.calls == ["a", "b", "c"]
    assert "b: reused, finished 20" in capsys.readouterr().err
    assert [path.name for path in queue.evidence.parent.iterdir()] == ["step-9.json"]


def test_a_part_recorded_under_an_earlier_name_is_reused(queue: Queue) -> None:
    write_json(queue.evidence, {"arms": {"finished": "2026-11-22", "commit": "abc", "figures": {}}})
    bench = Bench(work=queue.folder, shared=queue.folder)
    assert run_queue([queue.item("variants")], queue.evidence, lambda: bench) == [] and queue.calls == []
    assert list(read_evidence(queue.evidence)) == ["arms"]


def test_a_failure_leaves_the_others_and_is_retried(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.broken = {"b"}
    assert queue.run() == ["b"]
    assert list(read_evidence(queue.evidence)) == ["a", "c"]
    assert "b cannot be shown" in capsys.readouterr().err
    queue.broken = set()
    assert queue.run() == []
    assert queue.calls == ["a", "b", "c", "b"] and set(read_evidence(queue.evidence)) == {"a", "b", "c"}


def test_an_interrupt_keeps_what_is_finished(queue: Queue) -> None:
    def interrupted(bench: Bench) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_queue([queue.item("a"), ("b", interrupted)], queue.evidence, lambda: Bench(queue.folder, queue.folder))
    assert list(read_evidence(queue.evidence)) == ["a"]


def test_redo_replaces_one_part_and_keeps_the_old_one_if_it_fails(queue: Queue) -> None:
    queue.run()
    assert queue.run(redo=["b"]) == []
    assert queue.calls == ["a", "b", "c", "b"]
    parts = read_evidence(queue.evidence)
    assert parts["b"]["figures"] == {"call": 4} and parts["a"]["figures"] == {"call": 1}
    queue.broken = {"b"}
    assert queue.run(redo=["b"]) == ["b"]
    assert read_evidence(queue.evidence) == parts


def test_only(queue: Queue) -> None:
    queue.run(only=["c"])
    assert queue.calls == ["c"]


def test_write_json_replaces_whole_files(tmp_path: Path) -> None:
    where = tmp_path / "part.json"
    write_json(where, {"a": 1})
    with pytest.raises(TypeError):
        write_json(where, {"a": object()})
    assert json.loads(where.read_text(encoding="utf-8")) == {"a": 1}


def test_commands_are_recorded_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    bench = Bench(work=tmp_path / "big", shared=tmp_path / "real")
    assert bench.python("-c", "import sys; print(sys.argv[1])", tmp_path / "real" / "x") == f"{tmp_path}/real/x\n"
    assert bench.commands == ["python -c 'import sys; print(sys.argv[1])' ../shared/x"]
    with pytest.raises(ItemError, match="exit code 3 of `python"):
        bench.python("-c", "raise SystemExit(3)")


@pytest.mark.parametrize(("printed", "hash_"), [('{"config_hash": "ab12"}', "ab12"), ("{}", None)])
def test_foodseg_answers_in_json(
    printed: str, hash_: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(work=tmp_path, shared=tmp_path)
    monkeypatch.setattr(bench, "run", lambda command, *, shown, env: printed)
    assert bench.foodseg("doctor") == json.loads(printed) and bench.config_hash == hash_


def test_foodseg_refuses_chatter_on_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(work=tmp_path, shared=tmp_path)
    monkeypatch.setattr(bench, "run", lambda command, *, shown, env: "drawing\n{}")
    with pytest.raises(ItemError, match="printed no JSON object: 'drawing"):
        bench.foodseg("demo")


def test_unknown_item(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["proof", "--only", "nothing"])
    assert proof_queue.main() == 2
    assert "there is no item 'nothing'; there are s3, parity" in capsys.readouterr().err


class FakeFoodseg(Bench):
    """Answers as the command line does, and makes the files that it would make."""

    def foodseg(self, *arguments: object, env: Any = None) -> dict[str, Any]:
        words = [str(argument) for argument in arguments]
        self.commands.append(" ".join(words))
        if words[:2] == ["data", "prepare"]:
            write_json(Path(words[3]) / "dataset.json", {})
        if words[0] == "train":
            (run,) = (Path(word.removeprefix("run.uri=")) for word in words if word.startswith("run.uri="))
            write_json(run / "config.yaml", {})
            write_json(run / "last.json", {"step": step_1.PARITY_STEPS})
        if "--compare" in words:
            return {"miou": {"low": -0.01, "high": 0.02}, "subsets": {}, "a": words[2], "b": words[3]}
        return {"scores": {"miou": 0.5, "classes": []}, "config_hash": "ab12"} if words[0] == "evaluate" else {}

    def python(self, *arguments: object, env: Any = None) -> str:
        self.commands.append(" ".join(map(str, arguments)))
        write_json(Path(str(arguments[-1])) / "seconds.json", {"train_seconds": 7, "threads": 1})
        return ""


def test_parity_trains_what_is_missing_and_resumes_what_was_begun(tmp_path: Path) -> None:
    (tmp_path / "shared" / "datasets" / "foodmix").mkdir(parents=True)
    begun, finished = tmp_path / "ours-0", tmp_path / "peer-1"
    write_json(begun / "config.yaml", {})
    write_json(begun / "last.json", {"step": 59})
    write_json(finished / "seconds.json", {"train_seconds": 9, "threads": 1})
    bench = FakeFoodseg(work=tmp_path, shared=tmp_path / "shared")
    figures = step_1.parity(bench)
    trainings = [command for command in bench.commands if command.startswith("train")]
    assert [command.endswith("--resume") for command in trainings] == [True, False]
    assert sum("proof/peer.py" in command for command in bench.commands) == 1
    assert figures["seed 1"]["training"]["peer"] == {"train_seconds": 9, "threads": 1}
    assert figures["seed 0"]["scores"]["ours"] == {"config_hash": "ab12", "miou": 0.5}
    assert figures["seed 0"]["ours_minus_peer"]["miou"] == {"low": -0.01, "high": 0.02}
    again = FakeFoodseg(work=tmp_path, shared=tmp_path / "shared")
    step_1.parity(again)
    assert {command.split()[0] for command in again.commands} == {"evaluate"}


def test_missing_real_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match=r"shared data missing: .*foodmix; set FOODSEG_SHARED"):
        step_1.parity(Bench(work=tmp_path, shared=tmp_path / "nowhere"))
