"""The pictures that the demo shows are taken from the prepared set, whatever format that was made from."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.data.plates import draw_meal
from foodseg.data.reader import RowReader
from foodseg.data.shards import SCHEMA, read_manifest, write_manifest, write_shard
from foodseg.ray_demo import SHOWN, _write_some
from tests.drawn import write_drawn


def test_the_shown_pictures_are_the_files_as_they_came(tmp_path: Path) -> None:
    uri = write_drawn(tmp_path / "d", train=2, val=3, test=12)
    reader = RowReader(uri, read_manifest(uri), ["test"])
    paths = [Path(path) for path in _write_some(reader, tmp_path / "pictures")]
    assert [path.name for path in paths] == [f"{n + 1}-test-{n:03d}.jpeg" for n in range(SHOWN)]
    rows = reader.take(range(SHOWN)).to_pylist()
    assert [path.read_bytes() for path in paths] == [row["image"] for row in rows]
    few = RowReader(uri, read_manifest(uri), ["val"])
    assert len(_write_some(few, tmp_path / "few")) == 3


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("train/1 a", "1-train_1_a.png"),
        ("../../etc", "1-.._.._etc.png"),
        ("a" * 300, f"1-{'a' * 60}.png"),
        ("miso?x=1", "1-miso_x_1.png"),
    ],
)
def test_any_id_makes_a_file_name(tmp_path: Path, image_id: str, name: str) -> None:
    uri = write_drawn(tmp_path / "d", train=2, val=2, test=1)
    manifest = read_manifest(uri)
    (row,) = RowReader(uri, manifest, ["test"]).take([0], SCHEMA.names).to_pylist()
    picture: np.ndarray = draw_meal(0, 72, 96)[0]
    row |= {"image_id": image_id, "image": cv2.imencode(".png", picture)[1].tobytes()}
    shard = write_shard(uri, "v-1/test/part-00000.parquet", "test", [row])
    shards = (*(shard for shard in manifest.shards if shard.split != "test"), shard)
    write_manifest(uri, manifest.model_copy(update={"shards": shards}))
    (path,) = _write_some(RowReader(uri, read_manifest(uri), ["test"]), tmp_path / "pictures")
    assert os.path.relpath(path, tmp_path) == f"pictures/{name}"
