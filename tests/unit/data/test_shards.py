"""Shards and the manifest: what is written is read back, and a damaged or foreign manifest says so."""

import hashlib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from foodseg.data import shards
from foodseg.data.shards import (
    FORMAT_VERSION,
    SCHEMA,
    Manifest,
    SplitCounts,
    read_findings,
    read_manifest,
    read_quarantine,
    write_findings,
    write_manifest,
    write_quarantine,
    write_shard,
)
from foodseg.errors import MissingFile, UserError


def row(number: int, image: bytes = b"12345", mask: bytes | None = b"678") -> dict[str, object]:
    return {
        "image_id": f"p{number}",
        "image": image,
        "mask": mask,
        "height": 4,
        "width": 5,
        "ingredients": [1, 2],
        "ingredient_pixels": [7, 2**40],
        "group_id": f"g{number}",
        "source": "s",
    }


def manifest(*entries: shards.Shard) -> Manifest:
    counts = SplitCounts(
        images=3, unlabelled=0, groups=3, class_images=(3, 1, 0), class_pixels=(90, 5, 0), ignored_pixels=0
    )
    test = SplitCounts(
        images=1, unlabelled=0, groups=1, class_images=(1, 0, 1), class_pixels=(9, 0, 1), ignored_pixels=0
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        name="meals",
        generation=2,
        folder="v-2",
        classes=("background", "rice", "egg"),
        ignore_id=255,
        annotated={"a": None, "b": (0, 1)},
        shards=entries,
        counts={"train": counts, "test": test},
        quarantined=0,
    )


@pytest.mark.parametrize(
    ("limit", "weights", "groups"),
    [
        (8, [8, 8, 8], (1, 1, 1)),
        (16, [8, 8, 8], (2, 1)),
        (15, [8, 8, 8], (1, 1, 1)),
        (100, [8, 8, 8], (3,)),
        (4, [8, 1, 1], (1, 2)),  # one row larger than a group has its own group
        (10, [], ()),
    ],
)
def test_row_groups_hold_at_most_their_bytes(
    limit: int, weights: list[int], groups: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", limit)
    rows = [row(i, b"x" * (weight // 2), b"y" * (weight - weight // 2)) for i, weight in enumerate(weights)]
    shard = write_shard(str(tmp_path), "v-1/train/part-0.parquet", "train", iter(rows))
    assert (shard.row_groups, shard.rows) == (groups, len(weights))


def test_a_shard_is_read_back_exactly_and_its_entry_describes_the_file(tmp_path: Path) -> None:
    rows = [row(0), row(1, mask=None)]
    shard = write_shard(str(tmp_path), "v-1/train/part-0.parquet", "train", rows)
    data = (tmp_path / shard.path).read_bytes()
    assert (shard.sha256, shard.size, shard.split) == (hashlib.sha256(data).hexdigest(), len(data), "train")
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.equals(SCHEMA) and table.to_pylist() == rows


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    first, second = (write_shard(str(tmp_path), f"{n}.parquet", "train", [row(0), row(1)]) for n in "ab")
    assert first.sha256 == second.sha256


def test_a_shard_that_is_there_stays_and_is_described_where_only_masks_are_encoded_in_another_way(
    tmp_path: Path,
) -> None:
    path, own = "v-1/train/part-0.parquet", [row(0), row(1, mask=None)]
    first = write_shard(str(tmp_path), path, "train", own)
    data = (tmp_path / path).read_bytes()
    assert write_shard(str(tmp_path), path, "train", own) == first
    assert write_shard(str(tmp_path), path, "train", [row(0, mask=b"another encoder"), row(1, mask=None)]) == first
    for rows in ([row(0)], [row(0, image=b"other"), row(1, mask=None)], [{**own[0], "group_id": "other"}, own[1]]):
        with pytest.raises(UserError, match=r"part-0.parquet is there already and holds other rows: delete the folder"):
            write_shard(str(tmp_path), path, "train", rows)
    assert (tmp_path / path).read_bytes() == data
    (tmp_path / path).write_bytes(data[:-9])
    with pytest.raises(UserError, match=r"is there already and is damaged: delete the folder .*train and try again"):
        write_shard(str(tmp_path), path, "train", own)


def test_the_manifest_round_trips(tmp_path: Path) -> None:
    written = manifest(write_shard(str(tmp_path), "v-2/train/part-0.parquet", "train", [row(0)]))
    write_manifest(str(tmp_path), written)
    assert read_manifest(str(tmp_path)) == written
    assert written.class_table.names == ("background", "rice", "egg")


def test_the_identity_changes_with_content_name_and_generation(tmp_path: Path) -> None:
    one, two = (manifest(write_shard(str(tmp_path), f"{n}.parquet", "train", [row(n)])) for n in range(2))
    assert one.identity.startswith("meals@v2-") and len(one.identity) == len("meals@v2-") + 12
    others = [two, one.model_copy(update={"generation": 3}), one.model_copy(update={"name": "x"})]
    assert len({one.identity, *(other.identity for other in others)}) == 4
    assert manifest(*one.shards).identity == one.identity


def test_split_shards_come_in_the_order_asked_for(tmp_path: Path) -> None:
    made = [
        write_shard(str(tmp_path), f"{n}.parquet", split, [row(n)])
        for n, split in enumerate(["train", "test", "train"])
    ]
    whole = manifest(*made)
    assert [s.path for s in whole.split_shards(["test", "train"])] == ["1.parquet", "0.parquet", "2.parquet"]
    assert whole.class_pixels(["train"]) == (90, 5, 0) and whole.class_pixels(["test", "train"]) == (99, 5, 1)
    assert whole.trained_ids(["train"]) == {0, 1}
    assert whole.trained_ids(["train", "test"]) == {0, 1, 2}
    with pytest.raises(UserError, match=r"data set 'meals' has no split 'val'; it has train \(3\), test \(1\)"):
        whole.split_shards(["val"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree.update(format_version=1), "has format 1, this foodseg reads 2 and 3: prepare again"),
        (lambda tree: tree.update(format_version=9), "has format 9, this foodseg reads 2 and 3: update foodseg"),
        (lambda tree: tree.pop("format_version"), r"is damaged \('format_version'\): prepare the data set again"),
        (lambda tree: tree.pop("classes"), r"is damaged \(Field required\)"),
        (lambda tree: tree.update(extra=1), "is damaged"),
        (lambda tree: tree.update(shards=[{"path": 3}]), "is damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tree = manifest().model_dump(mode="json")
    change(tree)
    (tmp_path / "dataset.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=words) as caught:
        read_manifest(str(tmp_path))
    assert "dataset.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '"x"'])
def test_a_torn_manifest_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset.json is damaged .*prepare the data set again with --overwrite"):
        read_manifest(str(tmp_path))


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset.json is missing; make one with `foodseg data prepare SRC "):
        read_manifest(str(tmp_path))
    with pytest.raises(UserError, match=r"data.uri is empty: name a prepared data set"):
        read_manifest("")


@pytest.mark.parametrize("rows", [0, 2])
def test_quarantine_and_findings_round_trip(rows: int, tmp_path: Path) -> None:
    refused = [{"image_id": "a", "reason": "torn", "source": "s", "split": "val", "findings": ["truncated"]}] * rows
    pair = {"other_id": "b", "other_split": "train", "correlation": 0.5}
    found = [{"image_id": "a", "split": "val", "finding": "near_duplicate", "detail": "alike", **pair}] * rows
    write_quarantine(str(tmp_path), "v-3", refused)
    write_findings(str(tmp_path), "v-3", found)
    assert sorted(path.name for path in (tmp_path / "v-3").iterdir()) == ["findings.parquet", "quarantine.parquet"]
    assert read_quarantine(str(tmp_path), "v-3") == refused
    assert read_findings(str(tmp_path), "v-3") == found


def test_lists_that_are_missing_or_torn(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"findings\.parquet: no such file"):
        read_findings(str(tmp_path), "v-1")
    (tmp_path / "v-1").mkdir()
    (tmp_path / "v-1" / "quarantine.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"quarantine\.parquet is not a readable Parquet file"):
        read_quarantine(str(tmp_path), "v-1")
