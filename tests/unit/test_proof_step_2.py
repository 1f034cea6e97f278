"""The parts of proof/step_2.py that need no training: copies of data sets, and the figures taken from answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from foodseg.annotations.coco_export import export_coco
from foodseg.classes import ClassTable
from foodseg.data.label_space_map import read_label_space_map
from foodseg.demo.synthetic import write_meals
from foodseg.prepare.formats.detect import list_source
from proof import step_2
from proof.data_copies import equal_masks, equal_pycocotools, repeat, write_map, write_parquet
from proof.proof_queue import Bench, ItemError, write_json


@pytest.fixture(scope="module")
def meals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proof") / "meals"
    write_meals(folder, train=3, test=2, seed=0, longest_side=64)
    return folder


# --- copies ---


def test_parquet_holds_the_files_and_not_their_places(meals: Path, tmp_path: Path) -> None:
    write_parquet(meals, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["classes.txt", "data"]
    files = [tmp_path / "copy" / "data" / f"{split}-00000-of-00001.parquet" for split in ("train", "test")]
    found = [pq.read_table(file).to_pylist() for file in files]
    assert [len(rows) for rows in found] == [3, 2]
    for row in found[0] + found[1]:
        assert row["image"]["path"] == f"{row['id']}.jpg"
        assert row["image"]["bytes"] == (meals / "images" / f"{row['id']}.jpg").read_bytes()
        assert row["label"]["bytes"] == (meals / "masks" / f"{row['id']}.png").read_bytes()
    reference = list_source(str(meals))
    copy = list_source(str(tmp_path / "copy"))
    assert equal_masks(reference, copy) == 5
    with pytest.raises(ItemError, match="4 of 5 records"):
        equal_masks(reference, replace(copy, records=copy.records[1:]))


def test_pycocotools_is_asked_for_every_mask(meals: Path, tmp_path: Path) -> None:
    reference = list_source(str(meals))
    export_coco(reference.records, reference.classes, str(tmp_path / "coco"))
    assert equal_pycocotools(reference, tmp_path / "coco") == 5
    (tmp_path / "coco" / "annotations" / "instances_test.json").unlink()
    with pytest.raises(ItemError, match="pycocotools was given 3 of 5 masks"):
        equal_pycocotools(reference, tmp_path / "coco")


def test_repeated_images_are_new_files_with_the_same_masks(meals: Path, tmp_path: Path) -> None:
    repeat(meals, tmp_path / "many", 12)  # five images, twice and two more
    copy = list_source(str(tmp_path / "many"))
    splits = [record.split for record in copy.records]
    assert (splits.count("train"), splits.count("test")) == (8, 4)
    files = [(tmp_path / "many" / "images" / f"{record.image_id}.jpg").read_bytes() for record in copy.records]
    assert len(set(files)) == 12
    masks = {record.image_id: record.mask for record in list_source(str(meals)).records}
    for record in copy.records:
        first = masks[record.image_id.rsplit("-", 1)[0]]
        assert record.mask is not None and first is not None
        assert np.array_equal(record.mask.read(), first.read())
    with Image.open(tmp_path / "many" / "images" / "synthetic__0001-002.jpg") as image:
        assert max(image.size) == 64


def test_a_map_into_the_union(tmp_path: Path) -> None:
    own, union = ClassTable(("background", "tofu", "rice")), ClassTable(("background", "rice", "fig", "tofu"))
    write_map(tmp_path / "m.tsv", "meals", own, union)
    space_map = read_label_space_map(str(tmp_path / "m.tsv"))
    assert (space_map.from_space, space_map.to_space) == ("meals", "union")
    assert space_map.source_mismatch(own) is None and space_map.target_mismatch(union) is None
    assert [space_map.becomes(index, "s") for index in range(3)] == [0, 3, 1]


# --- figures ---


def test_twins_by_hand() -> None:
    near = {"finding": "near_duplicate", "image_id": "a", "split": "test", "other_id": "b", "other_split": "train"}
    inspected = {
        "data": "meals@v1-0",
        "audit": [{"finding": "grey", "count": 4}, {"finding": "near_duplicate", "count": 2}],
        "findings": [near, {**near, "other_id": "c"}, {**near, "finding": "grey"}],
        "shared_groups": [
            {"split": "test", "other": "train", "images": 1}, {"split": "train", "other": "test", "images": 2},
        ],
        "images": {"contact_sheet": "/home/me/look/contact_sheet.png"},
    }  # fmt: skip
    assert step_2.twins(inspected) == {
        "findings": {"grey": 4, "near_duplicate": 2},
        "near_duplicate_pairs": 2,
        "shared_groups": {"test with one in train": 1, "train with one in test": 2},
        "test_images_with_a_twin_in_train": 1,
        "images": {"contact_sheet": "contact_sheet.png"},
    }
    assert step_2.twins({**inspected, "shared_groups": []})["test_images_with_a_twin_in_train"] == 0
    with pytest.raises(ItemError, match="meals@v1-0 was prepared without findings"):
        step_2.twins({**inspected, "findings": None})


def test_memory_ratio_by_hand() -> None:
    few = {"largest_process_mib": 100.0, "processes_mib": {"raylet": 100.0, "python": 50.0, "ended": 0.0, "once": 1.0}}
    many = {"largest_process_mib": 150.0, "processes_mib": {"raylet": 110.0, "python": 150.0, "ended": 1.0, "new": 9.0}}
    assert step_2.memory_ratio(few, many) == {"largest_process": 1.5, "processes": {"raylet": 1.1, "python": 3.0}}


def test_worst_classes_by_hand() -> None:
    names = ["background", "rice", "tofu", "fig", "candy"]
    matrix = np.zeros((5, 5), np.int64)  # no candy
    matrix[0, :2] = 90, 10
    matrix[1, :3] = 30, 50, 20
    matrix[2, [0, 2]] = 5, 5
    matrix[3, 1] = 4
    assert step_2.worst_classes(matrix, names) == [
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
            write_json(self.work / "report-run" / "last.json", {"step": step_2.REPORT_STEPS})
        return {"calibration_note": "not calibrated: the checkpoint holds no temperature"}


@pytest.mark.parametrize(("step", "trained"), [(None, [False]), (500, [True]), (step_2.REPORT_STEPS, [])])
def test_the_report_is_of_a_validated_run(step: int | None, trained: list[bool], tmp_path: Path) -> None:
    (tmp_path / "shared" / "datasets" / "foodmix").mkdir(parents=True)
    write_json(tmp_path / "foodmix" / "dataset.json", {})
    if step is not None:
        write_json(tmp_path / "report-run" / "config.yaml", {})
        write_json(tmp_path / "report-run" / "last.json", {"step": step})
    bench = Uncalibrated(work=tmp_path, shared=tmp_path / "shared")
    with pytest.raises(ItemError, match="the confidences of the report are not calibrated: the checkpoint holds no"):
        step_2.report(bench)
    trainings = [command for command in bench.commands if command.startswith("train")]
    assert [command.endswith("--resume") for command in trainings] == trained
    assert all("data.val_split=val" in command for command in trainings)
    assert bench.commands[-1].startswith(f"evaluate {tmp_path / 'report-run'} ")
