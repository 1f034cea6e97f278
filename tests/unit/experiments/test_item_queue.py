"""The queue with made-up items: nothing is run twice, nothing that failed is recorded."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import item_queue
from experiments.item_queue import Bench, Item, ItemError, read_results, run_queue, write_json


class Queue:
    """Items a, b, c that count their calls; the names in `broken` fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "colour" / "results.json"
        (folder / "work").mkdir()
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

    def run(self, names: str = "abc", **options: Any) -> list[str]:
        bench = lambda: Bench(work=self.folder / "work", shared=self.folder / "shared")  # noqa: E731
        return run_queue([self.item(name) for name in names], self.results, bench, **options)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path)


def test_each_part_is_written_once(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    assert queue.run() == []
    parts = read_results(queue.results)
    assert list(parts) == ["a", "b", "c"]
    assert set(parts["b"]) == {"command", "commit", "config_hash", "figures", "seconds", "finished"}
    assert parts["b"]["command"] == ["run b"] and parts["b"]["figures"] == {"call": 2}
    assert queue.run() == [] and queue.calls == ["a", "b", "c"]
    assert "b: reused, finished 20" in capsys.readouterr().err
    assert [path.name for path in queue.results.parent.iterdir()] == ["results.json"]


def test_a_failure_leaves_the_others_and_is_retried(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.broken = {"b"}
    assert queue.run() == ["b"]
    assert list(read_results(queue.results)) == ["a", "c"]
    assert "b cannot be shown" in capsys.readouterr().err
    queue.broken = set()
    assert queue.run() == []
    assert queue.calls == ["a", "b", "c", "b"] and set(read_results(queue.results)) == {"a", "b", "c"}


def test_an_interrupt_keeps_what_is_finished(queue: Queue) -> None:
    def interrupted(bench: Bench) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_queue([queue.item("a"), ("b", interrupted)], queue.results, lambda: Bench(queue.folder, queue.folder))
    assert list(read_results(queue.results)) == ["a"]


def test_redo_replaces_one_part_and_keeps_the_old_one_if_it_fails(queue: Queue) -> None:
    queue.run()
    assert queue.run("b", redo=True) == []
    assert queue.calls == ["a", "b", "c", "b"]
    parts = read_results(queue.results)
    assert parts["b"]["figures"] == {"call": 4} and parts["a"]["figures"] == {"call": 1}
    queue.broken = {"b"}
    assert queue.run("b", redo=True) == ["b"]
    assert read_results(queue.results) == parts


def test_accesses_to_test_are_noted_without_the_folders_of_this_machine(queue: Queue) -> None:
    def scored(bench: Bench) -> dict[str, Any]:
        bench.test_log.write_text(f'{{"what": "{bench.work}/run-a"}}\n', encoding="utf-8")
        raise ItemError("it failed after that")

    log = queue.folder / "test_access.jsonl"
    for lines in (1, 2):
        run_queue([("a", scored)], queue.results, lambda: Bench(queue.folder / "work", queue.folder / "shared"))
        assert log.read_text(encoding="utf-8") == '{"what": "experiment-runs/run-a"}\n' * lines


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
    monkeypatch.setattr("sys.argv", ["experiments", "nothing"])
    assert item_queue.main() == 2
    assert "there is no 'nothing'; `python -m experiments --list` names all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "run"),
    [
        ([], ["dough/a", "dough/b", "soup/a"]),
        (["dough"], ["dough/a", "dough/b"]),
        (["soup/a", "dough/b"], ["dough/b", "soup/a"]),
    ],
)
def test_names_choose_folders_and_items(
    words: list[str], run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def item(folder: str, name: str) -> Item:
        return name, lambda bench: {"calls": called.append(f"{folder}/{name}")}

    made = {"dough": [item("dough", "a"), item("dough", "b")], "soup": [item("soup", "a")]}
    monkeypatch.setattr(item_queue, "folders", lambda: made)
    monkeypatch.setattr(item_queue, "HERE", tmp_path)
    monkeypatch.setenv("FOODSEG_EXPERIMENTS", str(tmp_path / "work"))
    monkeypatch.setattr("sys.argv", ["experiments", *words])
    assert item_queue.main() == 0 and called == run
    assert sorted(path.parent.name for path in tmp_path.glob("*/results.json")) == sorted(
        {n.split("/")[0] for n in run}
    )
