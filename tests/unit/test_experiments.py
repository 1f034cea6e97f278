"""The queue of experiments/ as a whole, once: every folder is there, and an item is run, recorded and not run again."""

import sys
from pathlib import Path

import pytest

from experiments import item_queue
from experiments.item_queue import HERE, Bench, read_results


def test_the_queue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole = item_queue.folders()
    assert whole.keys() == {path.parent.name for path in HERE.glob("*/README.md")} and len(whole) > 15
    for folder, items in whole.items():
        recorded = read_results(HERE / folder / "results.json")
        assert recorded.keys() <= {name for name, _ in items}, folder

    def version(bench: Bench) -> dict[str, object]:
        return {"python": bench.python("-c", "import sys; print(sys.version_info[0])").strip()}

    monkeypatch.setattr(item_queue, "HERE", tmp_path)
    monkeypatch.setattr(item_queue, "folders", lambda: {"smoke": [("version", version)]})
    monkeypatch.setenv("FOODSEG_EXPERIMENTS", str(tmp_path / "work"))
    monkeypatch.setattr(sys, "argv", ["experiments", "smoke"])
    (tmp_path / "smoke").mkdir()
    assert (item_queue.main(), item_queue.main()) == (0, 0)
    said = capsys.readouterr().err
    assert said.count("version: started") == 1 and said.count("version: reused") == 1
    part = read_results(tmp_path / "smoke" / "results.json")["version"]
    assert part["figures"] == {"python": "3"} and part["command"][0].startswith("python -c ")


def test_the_record_of_a_removed_option_stays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    results = tmp_path / "old" / "results.json"
    item_queue.write_json(results, {"gone": {"figures": 1, "finished": "2026-01-01", "commit": "abc"}})
    failed = item_queue.run_queue([("gone", item_queue.removed)], results, lambda: Bench(tmp_path, tmp_path), redo=True)
    assert failed == ["gone"] and read_results(results)["gone"]["figures"] == 1
    assert "no longer part of foodseg" in capsys.readouterr().err
