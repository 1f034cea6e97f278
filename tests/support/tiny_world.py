"""A tiny world for the command line, made without Ray: source folder `meals`, prepared data `prepared`, model `model`.

make_world(tmp_path)
run(["predict", "model", "meals/images/synthetic__0001.jpg", "--out", "out"])
"""

import json
from pathlib import Path

import numpy as np

from foodseg import storage
from foodseg.checkpoint.checkpoint import Checkpoint, save_checkpoint
from foodseg.config import load_config
from foodseg.data.image_io import decode_image, encode_mask
from foodseg.data.shards import FORMAT_VERSION, Manifest, SplitCounts, read_manifest, write_manifest, write_shard
from foodseg.demo.synthetic import write_meals
from foodseg.models.build import build_segmenter
from foodseg.prepare.formats.folder import list_folder

TRAIN, TEST, VAL, SIDE = 10, 3, 2, 64  # images (VAL of TRAIN), and pixels of the longer side
TINY_MODEL = (
    "model.backbone=test_resnet",
    "model.weights=none",
    "model.pyramid_channels=8",
    "model.decoder_channels=8",
)
TINY_RUN = (
    *TINY_MODEL, "augment.longest_side=64", "augment.crop=64", "eval.longest_side=64", "train.steps=2",
    "train.global_batch=2", "scaling.num_workers=0", "data.uri=prepared", "run.uri=run",
)  # fmt: skip


def make_world(folder: Path) -> None:
    """Writes `meals`, `prepared` and `model` into `folder`."""
    write_meals(folder / "meals", train=TRAIN, test=TEST, seed=0, longest_side=SIDE)
    write_prepared(folder / "meals", folder / "prepared")
    write_model(folder / "model", folder / "prepared")


def write_prepared(meals: Path, prepared: Path) -> None:
    """What `foodseg data prepare` writes, with the last VAL images of train as val."""
    listing = list_folder(str(meals))
    train = [record for record in listing.records if record.split == "train"]
    parts = {
        "train": train[:-VAL],
        "val": train[-VAL:],
        "test": [record for record in listing.records if record.split == "test"],
    }
    shards, counts = [], {}
    for split, records in parts.items():
        rows, pixels = [], []
        for record in records:
            image = record.image.read()
            assert record.mask is not None
            mask = record.mask.read()
            height, width = decode_image(image).shape[:2]
            found = np.bincount(mask.ravel(), minlength=len(listing.classes))
            ids = [int(index) for index in np.flatnonzero(found) if index != 0]
            pixels.append(found)
            rows.append(
                {
                    "image_id": record.image_id, "image": image, "mask": encode_mask(mask), "height": height,
                    "width": width, "ingredients": ids, "ingredient_pixels": [int(found[i]) for i in ids],
                    "group_id": record.image_id, "source": record.source,
                }
            )  # fmt: skip
        shards.append(write_shard(str(prepared), f"v-1/{split}/part-00000.parquet", split, rows))
        seen = np.stack(pixels)
        counts[split] = SplitCounts(
            images=len(rows),
            unlabelled=0,
            groups=len(rows),
            class_images=tuple(int(n) for n in (seen > 0).sum(0)),
            class_pixels=tuple(int(n) for n in seen.sum(0)),
            ignored_pixels=0,
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION, name="meals", generation=1, folder="v-1", classes=listing.classes.names,
        ignore_id=listing.classes.ignore_id, annotated={"synthetic": None}, shards=tuple(shards), counts=counts,
        quarantined=0,
    )  # fmt: skip
    write_manifest(str(prepared), manifest)


def write_model(uri: Path, prepared: Path) -> None:
    """A checkpoint of a tiny model that has learned nothing."""
    config = load_config(None, TINY_RUN).config
    manifest = read_manifest(str(prepared))
    state = build_segmenter(config.model, len(manifest.classes)).state_dict()
    save_checkpoint(
        str(uri),
        Checkpoint(
            step=0, config=config, classes=manifest.class_table, data=manifest.identity,
            trained_ids=tuple(sorted(manifest.trained_ids(["train"]))), student=state, teacher=state, trainer={},
        ),
    )  # fmt: skip


def set_options(*settings: str) -> list[str]:
    """`--set` for each setting."""
    return [word for setting in settings for word in ("--set", setting)]


def edit_json(path: Path, **changes: object) -> None:
    """Changes top-level keys of a JSON file."""
    storage.write_json(str(path), {**json.loads(path.read_text()), **changes})
