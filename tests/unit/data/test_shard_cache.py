"""Copies of shards: fetched once by however many readers, of the content that is listed, and never in the way."""

import logging
import shutil
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from foodseg import storage
from foodseg.data import shard_cache
from foodseg.data.reader import ShardReader
from foodseg.data.shards import Shard, encode_shard, entry_of_shard
from foodseg.errors import UserError

NUMBERS = list(range(50))
SCHEMA = pa.schema([("number", pa.int64())])


@pytest.fixture(autouse=True)
def nothing_was_unwritable() -> None:
    shard_cache._unwritable.clear()


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    data = encode_shard([[{"number": number} for number in NUMBERS]], SCHEMA, "none")
    (tmp_path / "part.parquet").write_bytes(data)
    return entry_of_shard("train", "part.parquet", data)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was fetched, one after another."""
    found: list[str] = []
    download = storage.download

    def counted(uri: str, path: Path) -> None:
        found.append(uri)
        download(uri, path)

    monkeypatch.setattr(storage, "download", counted)
    return found


def read(uri: Path, shard: Shard, cache: Path) -> list[int]:
    return ShardReader(str(uri), [shard], SCHEMA, cache=str(cache)).column("number").to_pylist()


def test_a_shard_is_fetched_once_and_then_read_from_its_copy(tmp_path: Path, shard: Shard, fetched: list[str]) -> None:
    cache = tmp_path / "a" / "cache"
    for _ in range(3):
        assert read(tmp_path, shard, cache) == NUMBERS
    assert fetched == [str(tmp_path / "part.parquet")]
    assert [path.name for path in cache.iterdir()] == [f"{shard.sha256}.parquet"]
    (tmp_path / "part.parquet").unlink()
    assert read(tmp_path, shard, cache) == NUMBERS


def test_those_that_want_it_at_the_same_time_wait_for_one(tmp_path: Path, shard: Shard, fetched: list[str]) -> None:
    together = threading.Barrier(8)

    def one(_: int) -> list[int]:
        together.wait()
        return read(tmp_path, shard, tmp_path / "cache")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [NUMBERS] * 8
    assert len(fetched) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{shard.sha256}.parquet"]


def test_a_copy_that_is_cut_short_or_gone_is_fetched_again(tmp_path: Path, shard: Shard, fetched: list[str]) -> None:
    cache = tmp_path / "cache"
    copy = cache / f"{shard.sha256}.parquet"
    read(tmp_path, shard, cache)
    copy.write_bytes(copy.read_bytes()[:-1])
    assert read(tmp_path, shard, cache) == NUMBERS and copy.stat().st_size == shard.size
    copy.unlink()
    assert read(tmp_path, shard, cache) == NUMBERS
    assert len(fetched) == 3


def test_another_content_is_refused_and_not_kept(tmp_path: Path, shard: Shard) -> None:
    path = tmp_path / "part.parquet"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"part\.parquet is not the file that the manifest lists \(its sha256"):
        read(tmp_path, shard, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_shard_is_missing(tmp_path: Path, shard: Shard) -> None:
    (tmp_path / "part.parquet").unlink()
    with pytest.raises(UserError, match=r"part\.parquet"):
        read(tmp_path, shard, tmp_path / "cache")


def test_a_full_disk_costs_the_copy_alone(
    tmp_path: Path, shard: Shard, fetched: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10 * 2**30, 0, 2**29))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert read(tmp_path, shard, tmp_path / "cache") == NUMBERS
    (warning,) = caplog.messages
    assert "0.5 GiB are free, and 5% of the disk are left free" in warning
    assert fetched == [] and list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_the_copy_alone(
    tmp_path: Path, shard: Shard, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert read(tmp_path, shard, tmp_path / "file" / "cache") == NUMBERS
    assert "data.cache" in caplog.text and "Not a directory" in caplog.text
