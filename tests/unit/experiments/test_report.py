"""The worst classes, and which run the report is of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.item_queue import Bench, ItemError, write_json
from experiments.report import run


def test_worst_classes_by_hand() -> None:
    names = ["background", "rice", "tofu", "fig", "candy"]
    matrix = np.zeros((5, 5), np.int64)  # no candy
    matrix[0, :2] = 90, 10
    matrix[1, :3] = 30, 50, 20
    matrix[2, [0, 2]] = 5, 5
    matrix[3, 1] = 4
    assert run.worst_classes(matrix, names) == [
        {"class": "fig", "iou": 0.0, "truth_pixels": 4, "taken_for": {"rice": 1.0}},
        {"class": "tofu", "iou": 5 / 30, "truth_pixels": 10, "taken_for": {"background": 0.5}},
        {"class": "rice", "iou": 50 / 114, "truth_pixels": 100, "taken_for": {"background": 0.3, "tofu": 0.2}},
    ]


class Uncalibrated(Bench):
    """Trains to the end at once; its evaluations find no temperature."""

    def foodseg(self, *arguments: object, env: Any = None) -> dict[str, Any]:
        words = [str(argument) for argument in arguments]
        self.commands.append(" ".join(words))
        if words[0] == "train":
            write_json(self.work / "report-run" / "last.json", {"step": run.STEPS})
        return {"calibration_note": "not calibrated: the checkpoint holds no temperature"}


@pytest.mark.parametrize(("step", "trained"), [(None, [False]), (500, [True]), (run.STEPS, [])])
def test_the_report_is_of_a_validated_run(step: int | None, trained: list[bool], tmp_path: Path) -> None:
    (tmp_path / "shared" / "datasets" / "foodmix").mkdir(parents=True)
    write_json(tmp_path / "foodmix" / "dataset.json", {})
    if step is not None:
        write_json(tmp_path / "report-run" / "config.yaml", {})
        write_json(tmp_path / "report-run" / "last.json", {"step": step})
    bench = Uncalibrated(work=tmp_path, shared=tmp_path / "shared")
    with pytest.raises(ItemError, match="the confidences of the report are not calibrated: the checkpoint holds no"):
        run.report(bench)
    trainings = [command for command in bench.commands if command.startswith("train")]
    assert [command.endswith("--resume") for command in trainings] == trained
    assert all("data.val_split=val" in command for command in trainings)
    assert bench.commands[-1].startswith(f"evaluate {tmp_path / 'report-run'} ")
