"""A tiny prepared data set of synthetic meals, and a tiny configuration that trains on it; no Ray, no files from
elsewhere.

config = synthetic_config(write_synthetic(tmp_path / "data"), tmp_path / "run", "train.steps=3")
"""

from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
from safetensors.numpy import save_file

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.config.load import with_overrides
from foodseg.data import shards
from foodseg.data.image_io import encode_mask
from foodseg.data.shards import FORMAT_VERSION, Manifest, Shard, SplitCounts, write_manifest, write_shard
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal

SIDE = 96
IGNORE = SYNTHETIC_CLASSES.ignore_id
_FIRST_SEED = {"train": 0, "val": 1000, "test": 2000}


def write_synthetic(
    folder: Path, train: int = 12, val: int = 4, test: int = 4, unlabelled: bool = True, masks: bool = True
) -> str:
    """Writes the data set; returns its URI.

    Images are 96 x 96 or 72 x 96. In turn, 0, 1/4, 2/4, 3/4 of the rows of a mask are ignored, so that every
    batch has another number of labelled pixels; with `unlabelled` the last image of a split has no mask, and
    without `masks` none has.
    """
    uri = str(folder)
    listed: list[Shard] = []
    counts: dict[str, SplitCounts] = {}
    for split, images in {"train": train, "val": val, "test": test}.items():
        rows = [meal_row(split, number, not masks or (unlabelled and number == images - 1)) for number in range(images)]
        parts = [rows[: len(rows) // 2], rows[len(rows) // 2 :]] if split == "train" else [rows]
        with patch.object(shards, "ROW_GROUP_BYTES", 8_000):  # a few images in each row group
            for number, part in enumerate(parts):
                path = f"v-1/{split}/part-{number:05d}.parquet"
                storage.delete(storage.join(uri, path))  # a shard is never replaced, but tests change what is there
                listed.append(write_shard(uri, path, split, part))
        pixels = np.array([row["class_pixels"] for row in rows]).reshape(-1, len(SYNTHETIC_CLASSES))
        counts[split] = SplitCounts(
            images=images,
            unlabelled=sum(row["mask"] is None for row in rows),
            groups=images,
            class_images=tuple((pixels > 0).sum(0).tolist()),
            class_pixels=tuple(pixels.sum(0).tolist()),
            ignored_pixels=0,
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="synthetic",
        generation=1,
        folder="v-1",
        classes=SYNTHETIC_CLASSES.names,
        ignore_id=IGNORE,
        annotated={"synthetic": None},
        shards=tuple(listed),
        counts=counts,
        quarantined=0,
    )
    write_manifest(uri, manifest)
    return uri


def meal_row(split: str, number: int, unlabelled: bool) -> dict:
    """A row of a shard, and its `class_pixels`."""
    height = SIDE if number % 2 else SIDE * 3 // 4
    image, mask = draw_meal(_FIRST_SEED[split] + number, height, SIDE)
    mask[: height * (number % 4) // 4] = IGNORE
    pixels = np.bincount(mask.ravel(), minlength=256)[: len(SYNTHETIC_CLASSES)] * (not unlabelled)
    present = [index for index in np.flatnonzero(pixels).tolist() if index]
    name = f"{split}-{number:03d}"
    return {
        "image_id": name,
        "image": cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes(),
        "mask": None if unlabelled else encode_mask(mask),
        "height": height,
        "width": SIDE,
        "ingredients": present,
        "ingredient_pixels": pixels[present].tolist(),
        "group_id": name,
        "source": "synthetic",
        "class_pixels": pixels.tolist(),
    }


def write_table(path: Path, width: int = 16) -> str:
    """Writes a table of random text embeddings for the synthetic classes; returns its path."""
    embeddings = np.random.default_rng(0).normal(size=(len(SYNTHETIC_CLASSES), width)).astype(np.float32)
    save_file({"text": embeddings}, path)
    return str(path)


def synthetic_config(data_uri: str, run_uri: str | Path, *overrides: str) -> ExperimentConfig:
    """A configuration whose update takes some 50 ms: 64 px crops, 4 in a batch, an 82,000-parameter backbone."""
    return with_overrides(
        ExperimentConfig(),
        [
            f"data.uri={data_uri}",
            f"run.uri={run_uri}",
            "augment.longest_side=96",
            "augment.crop=64",
            "model.backbone=test_efficientnet",
            "model.weights=none",
            "model.pyramid_channels=16",
            "model.decoder_channels=16",
            "train.steps=4",
            "train.global_batch=4",
            "train.log_every=1",
            "train.validate_every=1000",
            "train.checkpoint_every=1000",
            "eval.longest_side=96",
            "scaling.num_workers=0",
            *overrides,
        ],
    )
