"""`data export`: a source and what was prepared of it are the same COCO data set; nothing is replaced."""

import json
from pathlib import Path

import numpy as np
import pytest

from foodseg.cli.main import run as cli
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.errors import UserError
from foodseg.prepare.export import export_data_set
from foodseg.prepare.formats.coco import list_coco
from tests.support.synthetic_set import write_synthetic
from tests.support.tiny_world import TEST, TRAIN, VAL, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    make_world(folder)
    return folder


def masks(folder: Path) -> dict[str, np.ndarray]:
    """By image id the masks of a COCO data set."""
    return {each.image_id: each.mask.read() for each in list_coco(str(folder)).records if each.mask is not None}


def test_a_source_and_its_prepared_shards_are_exported_alike(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["data", "export", str(world / "meals"), str(tmp_path / "a"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["splits"] == {"train": TRAIN, "test": TEST} and answer["uri"] == str(tmp_path / "a")
    assert cli(["data", "export", str(world / "prepared"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert (
        f"train {TRAIN - VAL} images, val {VAL} images, test {TEST} images; {answer['categories']} categories" in said
    )
    names = {path.name for path in (tmp_path / "b" / "annotations").iterdir()}
    assert names == {"instances_train.json", "instances_val.json", "instances_test.json"}

    source, prepared = masks(tmp_path / "a"), masks(tmp_path / "b")
    assert source.keys() == prepared.keys() and len(source) == TRAIN + TEST
    assert all(np.array_equal(source[name], prepared[name]) for name in source)
    reader = RowReader(str(world / "prepared"), read_manifest(str(world / "prepared")), ["val"])
    for row in reader.take(range(len(reader))).to_pylist():
        np.testing.assert_array_equal(prepared[row["image_id"]], decode_mask(row["mask"]))


def test_nothing_is_replaced(world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty: name a folder that is new"):
        export_data_set(str(world / "meals"), str(tmp_path))
    with pytest.raises(UserError, match="is SRC: name another folder"):
        export_data_set(str(world / "meals"), str(world / "meals"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("with_masks", "words"), [(False, "train-000 has no mask"), (True, "has ignored pixels")])
def test_what_coco_cannot_express_is_named(with_masks: bool, words: str, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "prepared", masks=with_masks)
    with pytest.raises(UserError, match=words):
        export_data_set(data, str(tmp_path / "coco"))


def test_rows_are_read_together(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[int]] = []
    take = RowReader.take
    monkeypatch.setattr(
        RowReader, "take", lambda self, rows, *more: taken.append(list(rows)) or take(self, rows, *more)
    )
    monkeypatch.setattr("foodseg.prepare.export.ROWS_AT_ONCE", 3)
    export_data_set(str(world / "prepared"), str(tmp_path / "coco"))
    assert taken == [[0, 1, 2], [3, 4, 5], [6, 7], [0, 1], [0, 1, 2]]
