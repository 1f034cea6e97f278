"""The demo as a whole, smaller still; the images that it shows are those of the prepared set, whatever its format."""

import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.config import load_config
from foodseg.data.reader import RowReader
from foodseg.data.shards import SCHEMA, read_manifest, write_manifest, write_shard
from foodseg.demo import ray_demo
from foodseg.demo.ray_demo import SHOWN, _write_some, run_demo
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal
from foodseg.eval.result import ScoredCheckpoint
from foodseg.models.text.class_embeddings import read_table
from tests.support.synthetic_set import write_synthetic


def test_the_demo(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers and a table of text embeddings: every part of it runs and says what it did."""
    smaller = ["model.backbone=test_efficientnet", "augment.longest_side=96", "augment.crop=64", "eval.longest_side=96"]
    shorter = ["train.steps=4", "train.global_batch=4", "train.validate_every=4", "train.log_every=1"]
    settings = [*smaller, *shorter, "train.checkpoint_every=4"]
    monkeypatch.setattr(ray_demo, "load_config", lambda path, own: load_config(path, [*own, *settings]))
    for name, count in (("TRAIN_MEALS", 12), ("TEST_MEALS", 4), ("SHOWN", 2)):
        monkeypatch.setattr(ray_demo, name, count)
    out = tmp_path / "demo"
    result = run_demo(None, out)
    # the lock has the sentence encoder, so that its embeddings are used
    assert result.text.startswith("all-MiniLM-L6-v2 (") and f"text:      {result.text}\n" in result.summary
    table = read_table(str(out / "names.safetensors"))
    assert isinstance(result.metrics.subject, ScoredCheckpoint)
    assert table.made_by == result.text == result.metrics.subject.text and table.names == SYNTHETIC_CLASSES.names
    assert result.steps == 4 and result.metrics.images == result.provided.images == 4
    assert result.metrics.conditions is not None and result.metrics.conditions.ingredients == "vocabulary"
    assert result.provided.conditions is not None and result.provided.conditions.ingredients == "provided"
    assert "mIoU, classes provided" in result.summary
    plain = json.loads(json.dumps(result.to_json()))
    assert list(plain) == ["seconds", "steps", "metrics", "provided", "text", "images", "summary"]
    assert plain["provided"] == json.loads((out / "scores-provided" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss/cross_entropy"] for line in lines if "loss/cross_entropy" in line]
    assert len(losses) == 4 and all(math.isfinite(loss) for loss in losses)
    assert result.summary.endswith(f"report:    {(out / 'scores' / 'report.html').as_uri()}")
    assert (out / "images.png").stat().st_size > 0 and len(list((out / "images").iterdir())) == 2
    accesses = [json.loads(line) for line in (out / "test_access.jsonl").read_text().splitlines()]
    assert [line["event"] for line in accesses] == ["opened", "scored"] * 2


def test_the_shown_images_are_the_files_as_they_came(tmp_path: Path) -> None:
    uri = write_synthetic(tmp_path / "d", train=2, val=3, test=12)
    reader = RowReader(uri, read_manifest(uri), ["test"])
    paths = [Path(path) for path in _write_some(reader, tmp_path / "images")]
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
    uri = write_synthetic(tmp_path / "d", train=2, val=2, test=1)
    manifest = read_manifest(uri)
    (row,) = RowReader(uri, manifest, ["test"]).take([0], SCHEMA.names).to_pylist()
    image: np.ndarray = draw_meal(0, 72, 96)[0]
    row |= {"image_id": image_id, "image": cv2.imencode(".png", image)[1].tobytes()}
    shard = write_shard(uri, "v-1/test/part-00001.parquet", "test", [row])
    shards = (*(shard for shard in manifest.shards if shard.split != "test"), shard)
    write_manifest(uri, manifest.model_copy(update={"shards": shards}))
    (path,) = _write_some(RowReader(uri, read_manifest(uri), ["test"]), tmp_path / "images")
    assert os.path.relpath(path, tmp_path) == f"images/{name}"
