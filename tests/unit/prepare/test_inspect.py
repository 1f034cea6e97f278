"""What `data inspect` counts, which images it shows, and its output without findings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foodseg.data.shards import read_manifest, write_findings, write_manifest, write_quarantine
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import DataRefused, UserError
from foodseg.models.text.class_embeddings import closest_pairs, read_table
from foodseg.prepare.contact_sheet import choose_rows
from foodseg.prepare.inspect import closest_names, inspect_data, shared_groups, show_inspection
from foodseg.prepare.inspection import Inspection, SharedGroups, Verified
from tests.support.synthetic_set import write_synthetic, write_table

PAIR = {
    "image_id": "test-001", "split": "test", "finding": "near_duplicate", "detail": "looks like 'train-003' of train",
    "other_id": "train-003", "other_split": "train", "correlation": 0.97,
}  # fmt: skip
GREY = {
    "image_id": "val-000", "split": "val", "finding": "grey", "detail": "the image has no colour",
    "other_id": None, "other_split": None, "correlation": None,
}  # fmt: skip
REFUSED = {
    "image_id": "torn",
    "reason": "image: [cut]",
    "source": "synthetic",
    "split": "test",
    "findings": ["truncated"],
}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared data set with findings."""
    uri = write_synthetic(tmp_path_factory.mktemp("data"), train=4, val=2, test=2)
    write_findings(uri, "v-1", [GREY, PAIR])
    write_quarantine(uri, "v-1", [REFUSED])
    update = {"audit": {"truncated": 1, "grey": 1, "near_duplicate": 1}, "quarantined": 1, "name": "my/odd name"}
    write_manifest(uri, read_manifest(uri).model_copy(update=update))
    return uri


@pytest.fixture(scope="module")
def inspection(audited: str, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """The inspection of it."""
    return inspect_data(audited, str(tmp_path_factory.mktemp("look")))


def test_counts_are_those_of_the_manifest(audited: str, inspection: Inspection) -> None:
    result = json.loads(json.dumps(inspection.to_json()))
    manifest = read_manifest(audited)
    assert result["data"] == manifest.identity
    assert {split: row["images"] for split, row in result["splits"].items()} == {"train": 4, "val": 2, "test": 2}
    assert result["splits"]["val"]["unlabelled"] == 1
    assert result["sources"] == {"synthetic": {"images": 8, "annotated": None}}
    table = result["class_table"]
    assert [row["pixels"] for row in table] == sorted((row["pixels"] for row in table), reverse=True)
    assert sum(row["share"] for row in table) == pytest.approx(1)
    for row in table:
        assert row["name"] == SYNTHETIC_CLASSES.names[row["id"]]
        assert row["images"] == sum(counts.class_images[row["id"]] for counts in manifest.counts.values())
        assert row["splits"]["test"]["pixels"] == manifest.counts["test"].class_pixels[row["id"]]
    absent = [index for index, pixels in enumerate(manifest.counts["train"].class_pixels) if not pixels]
    assert result["never_in_train"] == absent and absent
    assert result["audit"][1] == {
        "finding": "grey", "effect": "counted", "meaning": "the image has no colour", "count": 1, "examples": [GREY],
    }  # fmt: skip
    assert [row["finding"] for row in result["findings"]] == ["grey", "near_duplicate"]
    assert result["quarantine"] == [REFUSED]
    assert list(result) == [
        "data", "uri", "ids", "ignore_id", "splits", "sources", "class_table", "never_in_train", "closest_names",
        "closest_embeddings", "shared_groups", "audit", "findings", "quarantine", "images", "verified",
    ]  # fmt: skip
    assert result["splits"]["val"] == {
        "images": 2, "unlabelled": 1, "groups": 2, "pixels": sum(manifest.counts["val"].class_pixels),
        "ignored_pixels": 0, "ignored_share": 0,
    }  # fmt: skip
    assert [list(table[0]), list(table[0]["splits"]["train"])] == [
        ["id", "name", "images", "pixels", "share", "splits"], ["images", "pixels"],
    ]  # fmt: skip
    assert list(result["closest_names"][0]) == ["ids", "names", "similarity"]


def test_shards_are_verified_before_anything_is_written(
    audited: str, inspection: Inspection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspection.verified is None
    shards = read_manifest(audited).shards
    whole = inspect_data(audited, str(tmp_path / "whole"), verify=True)
    assert whole.verified == Verified(4, sum(shard.size for shard in shards))
    show_inspection(whole)
    assert f"all 4 shards ({whole.verified.bytes:,} bytes) are those that dataset.json" in capsys.readouterr().out
    shutil.copytree(audited, tmp_path / "data")
    (tmp_path / "data" / shards[3].path).unlink()
    with pytest.raises(DataRefused, match=r"1 of 4 shards .*v-1/test/part-00000\.parquet is missing"):
        inspect_data(str(tmp_path / "data"), str(tmp_path / "out"), verify=True)
    assert not (tmp_path / "out").exists()


def test_images_are_written_and_the_same_each_time(
    audited: str, inspection: Inspection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = inspection.images
    assert sorted(images) == ["contact_sheet", "near_duplicates"]
    for name, columns, cell in (("contact_sheet", 6, 400), ("near_duplicates", 1, 568)):
        with Image.open(images[name]) as image:
            assert (image.format, image.mode, image.size[0]) == ("PNG", "RGB", columns * cell)
    monkeypatch.chdir(tmp_path)
    inspect_data(audited, None)
    for name, path in images.items():
        again = tmp_path / "inspect-my_odd_name" / f"{name}.png"
        assert again.read_bytes() == Path(path).read_bytes(), "a folder named after the data set holds the same"


def test_what_is_printed(inspection: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    show_inspection(inspection)
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "my/odd name@v1-",
        "val 2 images, 1 of them without mask in 2 near-duplicate groups",
        "source 'synthetic': 8 images, every id annotated",
        "1 grey (counted): the image has no colour val-000 of val: the image has no colour",
        "1 near_duplicate (counted): a pair of images of different splits that look alike test-001 of test: looks",
        "refused: 1 records torn of test: image: [cut]",
        "contact_sheet.png",
    ):
        assert words in printed, words


def test_a_class_without_pixels_has_no_share(inspection: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *rest = inspection.class_table
    rows = (replace(first, share=0.0), replace(second, share=0.00001), *rest)
    show_inspection(replace(inspection, class_table=rows))
    printed = capsys.readouterr().out
    assert "0.00 %" in printed and "< 0.01 %" in printed


def test_the_share_of_ignored_pixels_is_shown(inspection: Inspection, capsys: pytest.CaptureFixture[str]) -> None:
    shown = replace(inspection.splits["train"], ignored_pixels=inspection.splits["train"].pixels, ignored_share=0.5)
    show_inspection(replace(inspection, splits={"train": shown}))
    assert "near-duplicate groups, 50.0% of the pixels ignored" in " ".join(capsys.readouterr().out.split())
    assert inspection.splits["val"].ignored_share == 0


def test_a_data_set_without_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = write_synthetic(tmp_path / "data", train=2, val=1, test=0, unlabelled=False)
    inspection = inspect_data(uri, str(tmp_path / "out"))
    assert inspection.findings is None and inspection.quarantine is None and inspection.audit == ()
    assert list(inspection.images) == ["contact_sheet"]
    show_inspection(inspection)
    assert "this data set was written without findings" in capsys.readouterr().out


def test_no_data_set_and_no_folder_to_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no prepared data set at .*nowhere"):
        inspect_data(str(tmp_path / "nowhere"), None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        inspect_data(write_synthetic(tmp_path / "data", train=2, val=1, test=0), str(tmp_path / "file"))


def test_closest_names() -> None:
    found = closest_names(["background", "Fried Tempeh", "battered fried tempeh", "rice", "tempeh fried", "juice"])
    assert (found[0].ids, found[0].names) == ((1, 4), ("Fried Tempeh", "tempeh fried"))
    assert found[1].names == ("Fried Tempeh", "battered fried tempeh")
    # 12 of 12 + 21 letters agree, twice counted; 2 of 3 words are shared
    assert found[1].similarity == round((24 / 33 + 2 / 3) / 2, 3)
    assert found[-1].similarity <= found[-2].similarity and len(found) == 10
    assert closest_names(["background", "rice"]) == ()


def test_the_ten_closest_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    words = ["fried", "tofu", "tempeh", "rice", "egg", "soup", "raw", "white"]
    names = ["background", *sorted({" ".join(rng.permutation(words)[: rng.integers(1, 4)]) for _ in range(60)})]
    found = closest_names(names)
    assert len({pair.ids for pair in found}) == 10
    every = []
    for a in range(1, len(names)):
        for b in range(a + 1, len(names)):
            one, other = closest_names(["background", names[a], names[b]])[0].names
            every.append((-closest_names(["background", one, other])[0].similarity, a, b))
    assert [pair.ids for pair in found] == [(a, b) for _, a, b in sorted(every)[:10]]


def test_shared_groups_are_counted_in_both_directions() -> None:
    groups, splits = list("aabbcad"), ["train", "test", "test", "train", "val", "test", "val"]
    assert shared_groups(groups, splits) == (SharedGroups("test", "train", 3), SharedGroups("train", "test", 2))


def test_rows_are_chosen_from_every_split_and_rare_classes_first() -> None:
    present = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    splits = ["train", "train", "train", "val", "test", "train"]
    assert choose_rows(present, splits, 3) == [1, 3, 4]
    assert choose_rows(present, splits, 5)[3:] == [0, 2]
    assert sorted(choose_rows(present, splits, 30)) == [0, 1, 2, 3, 4, 5]
    assert choose_rows(np.zeros((2, 3), bool), ["train", "train"], 1) == [0]


def test_the_names_whose_embeddings_are_closest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = write_synthetic(tmp_path / "data", train=2, val=1, test=0)
    table = write_table(tmp_path / "t.safetensors")
    inspection = inspect_data(uri, str(tmp_path / "out"), table)
    assert inspection.closest_embeddings == closest_pairs(read_table(table).embeddings, SYNTHETIC_CLASSES.names)
    assert len(inspection.closest_embeddings) == 10
    show_inspection(inspection)
    first, second, cosine = inspection.closest_embeddings[0]
    assert f"closest text embeddings:\n  {cosine:.2f}  {first} | {second}\n" in capsys.readouterr().out
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"other\.safetensors is not a table of text embeddings"):
        inspect_data(uri, str(tmp_path / "out"), str(tmp_path / "other.safetensors"))
