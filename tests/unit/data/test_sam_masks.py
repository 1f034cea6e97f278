"""Masks that are kept beside a data set: written and read back, damaged lists, another generation."""

from pathlib import Path

import numpy as np
import pytest

from foodseg import storage
from foodseg.data.sam_masks import FILE, FOLDER, MaskSet, encode_mask_rows, mask_row, masks_of_row, read_kept_masks
from foodseg.data.shards import Manifest, entry_of_shard, read_manifest
from foodseg.errors import UserError
from tests.support.synthetic_set import write_synthetic


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_synthetic(tmp_path / "data")


def keep(uri: str, manifest: Manifest, rows: list[dict[str, object]]) -> None:
    data = encode_mask_rows(rows)
    storage.write_bytes(storage.join(uri, FOLDER, "abc", "part-00000.parquet"), data)
    listed = MaskSet(
        data=manifest.identity, sam="vit_t 00ff", grid={"points_per_side": 16.0}, folder="abc",
        shards=(entry_of_shard("all", "abc/part-00000.parquet", data),),
    )  # fmt: skip
    storage.write_text(storage.join(uri, FOLDER, FILE), listed.model_dump_json())


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((5, 7)) > 0.5, np.zeros((5, 7), bool), np.ones((5, 7), bool)]


def test_rows_hold_the_masks() -> None:
    row = mask_row("lunch", (5, 7), masks(), [0.9, 0.8, 0.7])
    assert all(np.array_equal(one, other) for one, other in zip(masks_of_row(row), masks(), strict=True))
    assert masks_of_row(mask_row("none", (5, 7), [], [])) == []


def test_kept_masks_are_found_by_image(data: str) -> None:
    manifest = read_manifest(data)
    keep(data, manifest, [mask_row("b", (5, 7), masks(), [0.9, 0.8, 0.7]), mask_row("a", (3, 3), [], [])])
    kept = read_kept_masks(data, manifest)
    assert np.array_equal(kept.masks("b")[0], masks()[0]) and kept.masks("a") == []
    assert kept.listed.sam == "vit_t 00ff" and len(kept.identity) == 12
    with pytest.raises(UserError, match="has no masks of 'c': make the masks again with `foodseg data masks"):
        kept.masks("c")


def test_what_cannot_be_used_says_what_to_do(data: str) -> None:
    manifest = read_manifest(data)
    with pytest.raises(UserError, match="has no masks of Segment Anything beside it: make them with `foodseg data ma"):
        read_kept_masks(data, manifest)
    keep(data, manifest.model_copy(update={"generation": 7}), [])
    with pytest.raises(UserError, match=r"the masks beside .* are of .*, and it holds .*: make the masks again"):
        read_kept_masks(data, manifest)
    storage.write_text(storage.join(data, FOLDER, FILE), "{}")
    with pytest.raises(UserError, match=r"masks.json is damaged or of another version"):
        read_kept_masks(data, manifest)
