"""Copies of a data set in other formats, and what compares them: a mask that differs or is missing is an error."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments.formats.compare_masks import equal_masks, equal_pycocotools, write_parquet
from experiments.formats.stored_masks import compare_formats
from experiments.item_queue import ItemError
from foodseg.annotations.coco_export import export_coco
from foodseg.demo.synthetic import write_meals
from foodseg.prepare.formats.detect import list_source


@pytest.fixture(scope="module")
def meals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies") / "meals"
    write_meals(folder, train=3, test=2, seed=0, longest_side=64)
    return folder


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


def test_both_formats_of_stored_masks_are_measured(meals: Path) -> None:
    found = compare_formats(meals / "masks")
    assert found["masks"] == 5 and 0 < found["mean_pixels"] <= 64 * 64
    for name in ("PNG", "zstd"):
        assert found[name].keys() == {"bytes", "encode_us", "decode_us"} and min(found[name].values()) > 0
