"""Evaluation over several processes counts every row once, and the same as one process."""

import numpy as np
import pytest

from foodseg.data.reader import RowReader
from foodseg.data.sample import decode_mask, encode_mask
from foodseg.data.shards import read_manifest
from foodseg.eval.pictures import merge, read_pictures
from foodseg.eval.ray_evaluate import evaluate
from tests.drawn import write_drawn


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_drawn(tmp_path_factory.mktemp("evaluate") / "prepared", test=37)


@pytest.fixture(scope="module")
def predictions(data, tmp_path_factory) -> str:
    """Label maps that are right but for one row of pixels per picture."""
    folder = tmp_path_factory.mktemp("predictions")
    reader = RowReader(data, read_manifest(data), ["test"])
    for row in reader.take(range(len(reader))).to_pylist():
        if row["mask"] is not None:
            mask = decode_mask(row["mask"])
            ids = np.where(mask == 255, 0, mask)
            ids[0] = 1
            (folder / f"{row['image_id']}.png").write_bytes(encode_mask(ids.astype(np.uint8)))
    return str(folder)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_counts(ray_cluster, data, predictions, tmp_path, workers):
    arguments = {"data": data, "split": "test", "predictions": predictions, "test_log": str(tmp_path / "log.jsonl")}
    alone = evaluate(None, out=str(tmp_path / "alone"), workers=0, **arguments)
    shared = evaluate(None, out=str(tmp_path / "shared"), workers=workers, **arguments)

    assert shared["scores"] == alone["scores"]
    pictures, _ = read_pictures(str(tmp_path / "shared" / "pictures.parquet"))
    assert [p.image_id for p in pictures] == [
        p.image_id for p in read_pictures(str(tmp_path / "alone" / "pictures.parquet"))[0]
    ]
    manifest = read_manifest(data)
    truth = merge(pictures, len(manifest.classes)).sum(1)
    assert truth.tolist() == list(manifest.counts["test"].class_pixels)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
