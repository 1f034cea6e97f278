"""The runs that several experiments share: trained, resumed and scored once."""

from pathlib import Path
from typing import Any

import pytest

from experiments.foodmix_runs import STEPS
from experiments.item_queue import Bench, ItemError, write_json
from experiments.parity.run import parity


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
            write_json(run / "last.json", {"step": STEPS})
        if "--compare" in words:
            return {"miou": {"low": -0.01, "high": 0.02}, "subsets": {}, "a": words[2], "b": words[3]}
        if words[0] == "evaluate":
            metrics = {"scores": {"miou": 0.5, "classes": []}, "config_hash": "ab12"}
            write_json(Path(words[words.index("--out") + 1]) / "metrics.json", metrics)
            assert "--test-log" in words
        return {}

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
    figures = parity(bench)
    trainings = [command for command in bench.commands if command.startswith("train")]
    assert [command.endswith("--resume") for command in trainings] == [True, False]
    assert sum("-m experiments.peer" in command for command in bench.commands) == 1
    assert figures["seed 1"]["training"]["peer"] == {"train_seconds": 9, "threads": 1}
    assert figures["seed 0"]["scores"]["ours"] == {"config_hash": "ab12", "miou": 0.5}
    assert figures["seed 0"]["ours_minus_peer"]["miou"] == {"low": -0.01, "high": 0.02}
    again = FakeFoodseg(work=tmp_path, shared=tmp_path / "shared")
    parity(again)
    assert [command.split()[:2] for command in again.commands] == 2 * [["evaluate", "--compare"]]


def test_missing_real_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match=r"shared data missing: .*foodmix; set FOODSEG_SHARED"):
        parity(Bench(work=tmp_path, shared=tmp_path / "nowhere"))
