"""Masks of Segment Anything kept beside a data set: made on Ray, resumed, replaced only on request."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg import storage
from foodseg.data.image_io import decode_image
from foodseg.data.reader import RowReader
from foodseg.data.sam_masks import FILE, FOLDER, read_kept_masks
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import write_meals
from foodseg.errors import UserError
from foodseg.models.sam.mask_grid import MaskGrid
from foodseg.models.sam.sam import load_sam
from foodseg.prepare import ray_masks
from foodseg.prepare.ray_masks import make_masks
from tests.support.tiny_world import write_prepared

GRID = MaskGrid(points_per_side=2, points_per_batch=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("masks")
    write_meals(folder / "meals", train=3, test=1, seed=0, longest_side=64)
    write_prepared(folder / "meals", folder / "prepared")
    return str(folder / "prepared")


def test_masks_are_made_once_resumed_and_replaced_only_on_request(
    data: str, shared: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = str(shared / "weights" / "mobile_sam.safetensors")
    monkeypatch.setattr(ray_masks, "TASK_ROWS", 2)
    made = make_masks(data, weights, GRID, device="cpu")
    manifest = read_manifest(data)
    kept = read_kept_masks(data, manifest)
    assert (made.images, len(kept)) == (4, 4) and made.masks == len(np.concatenate(kept.column("scores").to_pylist()))
    # they are what the model finds

    model = load_sam("vit_t", weights, torch.device("cpu"), GRID)
    (row,) = RowReader(data, manifest, list(manifest.counts)).take([3], ["image_id", "image"]).to_pylist()
    image = decode_image(row["image"])
    expected = [found.mask for found in model.automatic(model.embed(image))]
    assert all((one == other).mean() > 0.999 for one, other in zip(kept.masks(row["image_id"]), expected, strict=True))

    # a command that was killed has no list yet, and lacks a shard
    listed = storage.read_text(storage.join(data, FOLDER, FILE))
    storage.delete(storage.join(data, FOLDER, FILE))
    storage.delete(storage.join(data, FOLDER, kept.listed.folder, "part-00001.parquet"))
    with caplog.at_level("INFO", "foodseg"):
        assert make_masks(data, weights, GRID, device="cpu") == made
    assert "finding masks: resuming, 2 of 4 are there" in [record.getMessage() for record in caplog.records]
    assert storage.read_text(storage.join(data, FOLDER, FILE)) == listed

    with pytest.raises(UserError, match="holds masks of other weights, another grid or another generation"):
        make_masks(data, weights, MaskGrid(points_per_side=1), device="cpu")
