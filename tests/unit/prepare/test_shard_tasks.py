"""A shard is written of what the audit has left: rows in order, groups, counts; damage is deleted and said."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_mask
from foodseg.data.stored_mask import encode_stored_mask
from foodseg.errors import RetryLater
from foodseg.prepare.ambiguities import Resolution
from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.audit_rows import content_of, encode_audit
from foodseg.prepare.checked import CheckedImage, CheckedMask
from foodseg.prepare.findings import Finding
from foodseg.prepare.record import ImageFile, Record
from foodseg.prepare.shard_tasks import Part, Written, read_written, write_part

CLASSES = ClassTable(("background", "rice", "egg"))
NOTHING_OPEN = Resolution({}, None)


def facts(name: str, *ids: int, evidence: float | None = None) -> RecordFacts:
    mask = np.array([ids], np.uint8)
    record = Record(name, "train", "s", CheckedImage(f"image {name}".encode()), CheckedMask(encode_stored_mask(mask)))
    pixels = np.bincount(ids, minlength=3).astype(np.int32)
    thumbnail, digest = np.zeros(768, np.uint8), hashlib.sha256(name.encode()).digest()
    return RecordFacts(record, (), 9, 1, len(ids), 1, pixels, thumbnail, digest, 0, 3, evidence)


def audited(folder: Path, key: str, *found: RecordFacts | Refusal) -> None:
    for name in ("audit", "content"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "content" / f"{key}-1").write_bytes(content_of(found))
    (folder / "audit" / key).write_bytes(encode_audit(found, f"{key}-1"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torn = Refusal(Record("t", "train", "s", ImageFile("t"), None), (Finding("truncated", "torn"),))
    audited(tmp_path, "000000", facts("a", 0, 1, 1), torn, facts("b", 2, 2))
    audited(tmp_path, "000003", facts("c", 0, 2), facts("d", 0, 0, 1, evidence=0.3))
    return tmp_path


def written(folder: Path, part: Part, resolution: Resolution = NOTHING_OPEN) -> Written:
    data = write_part(part, str(folder), str(folder / "audit"), str(folder / "content"), resolution, CLASSES)
    return read_written(part, data)


def part(batches: list[int], rows: list[int], group_ids: list[str | None]) -> Part:
    keys, ids = ("000000", "000003"), pa.array(group_ids, pa.string())
    return Part("train", "v-1/train/part-00000.parquet", keys, np.array(batches), np.array(rows), ids, 2)


def test_rows_groups_and_counts(folder: Path) -> None:
    found = written(folder, part([0, 0, 1], [0, 2, 0], [None, "a", None]))
    rows = pq.read_table(folder / found.shard.path).to_pylist()
    assert [(row["image_id"], row["group_id"], row["image"]) for row in rows] == [
        ("a", "a", b"image a"), ("b", "a", b"image b"), ("c", "c", b"image c"),
    ]  # fmt: skip
    assert [decode_mask(row["mask"]).tolist() for row in rows] == [[[0, 1, 1]], [[2, 2]], [[0, 2]]]
    assert (found.shard.rows, found.counts.images, found.counts.class_pixels) == (3, 3, (2, 2, 3))
    with pytest.raises(ValueError, match=r"it is about v-1/train/part-00000\.parquet of 3 rows"):
        read_written(part([0], [0], [None]), found.model_dump_json().encode())


def test_masks_are_turned_as_the_records_have_decided(folder: Path) -> None:
    found = written(folder, part([1], [1], [None]), Resolution({"s": 1}, None))
    (row,) = pq.read_table(folder / found.shard.path).to_pylist()
    assert decode_mask(row["mask"]).tolist() == [[1, 0, 0]] and row["ingredient_pixels"] == [1]


@pytest.mark.parametrize("what", ["audit/000003", "content/000003-1"])
def test_what_is_damaged_is_deleted_so_that_the_next_command_makes_it_again(folder: Path, what: str) -> None:
    data = (folder / what).read_bytes()
    (folder / what).write_bytes(data[: len(data) // 2])
    with pytest.raises(RetryLater, match=r"audit/000003 is damaged \(.*\): prepare again"):
        written(folder, part([0, 1], [0, 0], [None, None]))
    assert not (folder / "audit" / "000003").exists() and (folder / "audit" / "000000").exists()
