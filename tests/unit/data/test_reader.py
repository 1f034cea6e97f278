"""Rows by number over shards and row groups; the batches of a process without Ray."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from foodseg import storage
from foodseg.config.augment import AugmentConfig
from foodseg.data import reader as reader_module
from foodseg.data import shards
from foodseg.data.batch import read_batches
from foodseg.data.image_io import encode_mask
from foodseg.data.reader import COLUMNS, RowReader
from foodseg.data.sampler import TrainingOrder, rank_blocks
from foodseg.data.shards import FORMAT_VERSION, SCHEMA, Manifest, SplitCounts, write_shard
from foodseg.errors import RetryLater, UserError
from foodseg.storage import s3_client

ROWS = (7, 1, 5)  # of the train shards; then 2 of val
AUGMENT = AugmentConfig(longest_side=16, crop=16, scale=(0.8, 1.5))


def row(number: int) -> dict[str, object]:
    mask = np.full((12, 16), number % 3, np.uint8)
    image = cv2.imencode(".png", np.random.default_rng(number).integers(0, 255, (12, 16, 3), np.uint8))[1].tobytes()
    size = {"height": 12, "width": 16, "group_id": str(number), "source": "ab"[number % 2]}
    ids = [number % 3] if number % 3 else []
    lists = {"ingredients": ids, "ingredient_pixels": [192] * len(ids)}
    return {"image_id": f"p{number}", "image": image, "mask": encode_mask(mask), **lists, **size}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Rows 0..12 in three train shards, 13 and 14 in val; row groups of two or three rows."""
    weight = len(row(0)["image"]) + len(row(0)["mask"])  # type: ignore[arg-type]
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", int(2.5 * weight))
    made, start = [], 0
    for index, (split, count) in enumerate([*(("train", n) for n in ROWS), ("val", 2)]):
        rows = [row(number) for number in range(start, start + count)]
        made.append(write_shard(str(tmp_path), f"v-1/{split}/part-{index}.parquet", split, rows))
        start += count
    zero = SplitCounts(images=0, unlabelled=0, groups=0, class_images=(0,) * 3, class_pixels=(0,) * 3, ignored_pixels=0)
    return Manifest(
        format_version=FORMAT_VERSION, name="m", generation=1, folder="v-1",
        classes=("background", "rice", "egg"), ignore_id=255,
        annotated={"a": None, "b": None}, shards=tuple(made), counts={"train": zero, "val": zero}, quarantined=0,
    )  # fmt: skip


def ids_of(table: pa.Table) -> list[str]:
    return table.column("image_id").to_pylist()


def test_the_shards_have_several_row_groups(data: Manifest) -> None:
    assert [len(shard.row_groups) for shard in data.shards] == [4, 1, 3, 1]


@pytest.mark.parametrize(
    "wanted",
    [[0], [12], [7], [5, 3, 3], [12, 0, 6, 7, 8, 0], list(range(13)), list(range(12, -1, -1)), [2, 2, 2], [6, 8]],
)
def test_rows_come_in_the_order_asked_for(wanted: list[int], data: Manifest, tmp_path: Path) -> None:
    reader = RowReader(str(tmp_path), data, ["train"])
    assert len(reader) == 13 and reader.shard_rows == [7, 1, 5]
    table = reader.take(np.array(wanted))
    assert table.column_names == COLUMNS
    expected = [{name: row(number)[name] for name in COLUMNS} for number in wanted]
    assert table.to_pylist() == expected
    assert reader.take(wanted, ["image_id"]).to_pylist() == [{"image_id": f"p{number}"} for number in wanted]


def test_no_rows(data: Manifest, tmp_path: Path) -> None:
    assert RowReader(str(tmp_path), data, ["train"]).take([]).num_rows == 0


def test_splits_count_in_the_order_named(data: Manifest, tmp_path: Path) -> None:
    assert ids_of(RowReader(str(tmp_path), data, ["val"]).take([1, 0])) == ["p14", "p13"]
    assert ids_of(RowReader(str(tmp_path), data, ["val", "train"]).take([0, 2])) == ["p13", "p0"]
    assert ids_of(RowReader(str(tmp_path), data, ["train", "val"]).take([13, 2])) == ["p13", "p2"]
    with pytest.raises(UserError, match="has no split 'test'"):
        RowReader(str(tmp_path), data, ["test"])


def test_a_whole_column(data: Manifest, tmp_path: Path) -> None:
    reader = RowReader(str(tmp_path), data, ["train", "val"])
    assert reader.column("image_id").to_pylist() == [f"p{number}" for number in range(15)]
    assert reader.column("ingredients").to_pylist() == [row(number)["ingredients"] for number in range(15)]


def test_only_the_row_groups_that_are_wanted_are_read(
    data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, read = RowReader(str(tmp_path), data, ["train"]), []
    inner = reader._read
    monkeypatch.setattr(
        reader, "_read", lambda shard, groups, columns: read.append((shard, groups)) or inner(shard, groups, columns)
    )
    reader.take([12, 0, 1, 6, 6])
    assert sorted(read) == [(0, [0, 3]), (2, [2])]


def test_shards_are_read_at_the_same_time(data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, all_open, inner = (
        RowReader(str(tmp_path), data, ["train"]),
        threading.Barrier(3, timeout=60),
        storage.open_input,
    )
    monkeypatch.setattr(storage, "open_input", lambda uri: (all_open.wait(), inner(uri))[1])
    assert ids_of(reader.take([12, 0, 7])) == ["p12", "p0", "p7"]
    assert reader.columns(["image_id", "source"]).num_rows == 13


def test_a_large_shard_is_read_in_parts(data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "GROUPS_AT_ONCE", 3)
    reader, read = RowReader(str(tmp_path), data, ["train"]), []
    inner = reader._read
    monkeypatch.setattr(
        reader, "_read", lambda shard, groups, columns: read.append((shard, groups)) or inner(shard, groups, columns)
    )
    assert ids_of(reader.take(range(12, -1, -1))) == [f"p{number}" for number in range(12, -1, -1)]
    assert sorted(read) == [(0, [0, 1, 2]), (0, [3]), (1, [0]), (2, [0, 1, 2])]


def test_a_footer_is_fetched_once_in_a_process(data: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[pa.NativeFile] = []
    inner = pq.read_metadata
    monkeypatch.setattr(pq, "read_metadata", lambda source: (fetched.append(source), inner(source))[1])
    monkeypatch.setattr(reader_module, "GROUPS_AT_ONCE", 1)
    for _ in range(2):
        reader = pickle.loads(pickle.dumps(RowReader(str(tmp_path), data, ["train"])))
        assert reader.take(range(13)).num_rows == 13
    assert len(fetched) == 3


def _missing(path: Path) -> None:
    path.unlink()


def _text(path: Path) -> None:
    path.write_text("hello, this is not Parquet")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _torn_footer(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-60] + b"\xff" * 48 + whole[-12:-8] + whole[-8:])


def _spoiled_page(path: Path) -> None:
    whole, image = path.read_bytes(), row(1)["image"]
    assert isinstance(image, bytes) and image in whole
    path.write_bytes(whole.replace(image, image[:-9] + b"!" + image[-8:]))


def _shorter(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


def _regrouped(path: Path) -> None:
    pq.write_table(pq.read_table(path), path, row_group_size=4)


def _other_columns(path: Path) -> None:
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.drop_columns(["mask"]).schema) as writer:
        for start in range(0, 7, 2):
            writer.write_table(table.drop_columns(["mask"]).slice(start, 2))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "no such file"),
        (_text, "has 26 bytes, dataset.json lists"),
        (_empty, "has 0 bytes, dataset.json lists"),
        (_truncated, "bytes, dataset.json lists"),
        (_torn_footer, "is not a readable Parquet file"),
        (_spoiled_page, r"is not a readable Parquet file \(.*CRC checksum verification failed"),
    ],
)
def test_a_shard_that_is_not_the_one_listed(spoil, words: str, data: Manifest, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spoil(tmp_path / data.shards[0].path)
    reader = RowReader(str(tmp_path), data, ["train"])
    assert ids_of(reader.take([8])) == ["p8"], "the other shards are still read"
    with pytest.raises(UserError, match=words) as caught:
        reader.take([8, 1])
    assert "part-0.parquet" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("spoil", [_text, _empty, _truncated, _shorter, _regrouped, _other_columns])
def test_a_shard_of_the_listed_size_that_is_another(
    spoil: Callable[[Path], None], data: Manifest, tmp_path: Path
) -> None:
    path, shard = tmp_path / data.shards[0].path, data.shards[0]
    spoil(path)
    listed = data.model_copy(update={"shards": (shard.model_copy(update={"size": path.stat().st_size}),)})
    words = "is not a readable Parquet file|holds [67] rows, dataset.json lists 7 otherwise"
    with pytest.raises(UserError, match=rf"part-0\.parquet ({words})"):
        RowReader(str(tmp_path), listed, ["train"]).take([1])


def test_no_damage_of_a_byte_goes_unnoticed(data: Manifest, tmp_path: Path) -> None:
    path, wanted = tmp_path / data.shards[1].path, row(7)
    whole, refused = path.read_bytes(), 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        reader_module._footer.cache_clear()
        try:  # padding and statistics may change
            assert RowReader(str(tmp_path), data, ["train"]).take([7], SCHEMA.names).to_pylist() == [wanted]
        except UserError as error:
            assert "part-1.parquet" in str(error)
            refused += 1
    assert refused > len(whole) / 7 / 2


def test_a_data_set_that_is_unreachable_is_not_a_wrong_address(data: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that reads is a new process, and asks for the first time."""
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(s3_client, "_ANSWERED", set())
    monkeypatch.setattr(s3_client, "RETRY_SECONDS", 0.1)
    with pytest.raises(RetryLater, match="cannot read s3://food/data/"):
        RowReader("s3://food/data", data, ["train"]).take([0])


def assert_same(one: torch.Tensor | None, other: torch.Tensor | None) -> None:
    assert (one is None and other is None) or (one is not None and other is not None and one.equal(other))


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
@pytest.mark.parametrize(("world_size", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_batches_come_in_order_and_alike_from_a_later_start(
    world_size: int, rank: int, micro_batch: int, data: Manifest, tmp_path: Path
) -> None:
    reader = RowReader(str(tmp_path), data, ["train"])
    order, share = TrainingOrder(reader.shard_rows, 0, 8 // world_size * world_size), 8 // world_size
    blocks = rank_blocks(0, 7, 8, world_size, rows_per_block=2 * share)[rank::world_size]
    assert len(blocks) == 4
    batches = list(read_batches(reader, order, AUGMENT, data, blocks, micro_batch))
    assert {len(batch) for batch in batches} == {micro_batch}
    positions = [position for batch in batches for position in batch.position.tolist()]
    assert positions == [step * 8 + rank * share + slot for step in range(7) for slot in range(share)]
    later = list(read_batches(reader, order, AUGMENT, data, blocks[2:], micro_batch))
    assert len(later) == 3 * share // micro_batch
    for one, two in zip(batches[-len(later) :], later, strict=True):
        for name in vars(one):
            assert_same(getattr(one, name), getattr(two, name))


def test_a_damaged_shard_ends_the_batches_with_the_reason(data: Manifest, tmp_path: Path) -> None:
    reader = RowReader(str(tmp_path), data, ["train"])
    order = TrainingOrder(reader.shard_rows, 0, 13)
    (tmp_path / data.shards[1].path).unlink()
    with pytest.raises(UserError, match=r"part-1\.parquet: no such file"):
        list(read_batches(reader, order, AUGMENT, data, rank_blocks(0, 2, 13, 1), 13))
