"""Shards against the sha256 of the manifest."""

from pathlib import Path

import pytest

from foodseg.data.shards import Manifest, read_manifest
from foodseg.errors import DataRefused
from foodseg.prepare.verify_shards import verify_shards
from tests.support.synthetic_set import write_synthetic


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, Manifest]:
    uri = write_synthetic(tmp_path / "data")
    return uri, read_manifest(uri)


def test_a_data_set_that_is_whole(data: tuple[str, Manifest], capsys: pytest.CaptureFixture[str]) -> None:
    uri, manifest = data
    assert verify_shards(uri, manifest) == sum(shard.size for shard in manifest.shards)
    assert "verifying shards: 4 in " in capsys.readouterr().err


def test_each_shard_that_differs_is_named(data: tuple[str, Manifest]) -> None:
    uri, manifest = data
    missing, cut, changed, whole = (Path(uri) / shard.path for shard in manifest.shards)
    missing.unlink()
    content = cut.read_bytes()
    cut.write_bytes(content[:-1])
    other = bytearray(changed.read_bytes())
    other[-5] ^= 1
    changed.write_bytes(other)
    with pytest.raises(DataRefused) as refused:
        verify_shards(uri, manifest)
    assert str(refused.value) == (
        f"{uri}: 3 of 4 shards are not those that dataset.json lists: v-1/train/part-00000.parquet is missing; "
        f"v-1/train/part-00001.parquet has {len(content) - 1} bytes instead of {len(content)}; "
        "v-1/val/part-00000.parquet has another sha256; prepare the data set again with --overwrite"
    )
    assert whole.exists() and refused.value.exit_code == 3
