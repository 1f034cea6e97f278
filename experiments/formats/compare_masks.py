"""Copies of the real images in other formats, and the comparison of their masks, pixel for pixel."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.foodmix import stems
from experiments.item_queue import ItemError
from foodseg.prepare.formats.detect import list_source
from foodseg.prepare.record import SourceListing


def equal_masks(reference: SourceListing, copy: SourceListing) -> int:
    """Returns how many masks are equal, pixel for pixel; raises where one is not."""
    truth = {record.image_id: record for record in reference.records}
    for record in copy.records:
        mask, expected = record.mask, truth[record.image_id].mask
        if mask is None or expected is None or not np.array_equal(mask.read(), expected.read()):
            raise ItemError(f"the mask of {record.image_id} differs")
    if len(copy.records) != len(truth) or copy.classes != reference.classes:
        raise ItemError(f"{len(copy.records)} of {len(truth)} records, or another label space")
    return len(truth)


def equal_pycocotools(reference: SourceListing, coco: Path) -> int:
    """Returns how many masks pycocotools reads as they are; raises where it reads another, or not all of them."""
    from pycocotools.coco import COCO

    truth = {record.image_id: record for record in reference.records}
    equal = 0
    for path in sorted((coco / "annotations").iterdir()):
        document = COCO(str(path))
        for image in document.loadImgs(document.getImgIds()):
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for annotation in document.loadAnns(document.getAnnIds(imgIds=image["id"])):
                mask[document.annToMask(annotation) == 1] = annotation["category_id"]
            expected = truth[image["file_name"].rsplit(".", 1)[0]].mask
            if expected is None or not np.array_equal(mask, expected.read()):
                raise ItemError(f"pycocotools reads another mask for {image['file_name']}")
            equal += 1
    if equal != len(truth):
        raise ItemError(f"pycocotools was given {equal} of {len(truth)} masks")
    return equal


def equal_foodseg103(root: Path) -> int:
    """Returns how many masks Pillow reads as they are; raises where one differs."""
    records = list_source(str(root)).records
    for record in records:
        with Image.open(root / "Images" / "ann_dir" / record.split / f"{record.image_id}.png") as image:
            _refuse_difference(record.image_id, record.mask, np.asarray(image))
    return len(records)


def equal_uec(root: Path) -> int:
    """Returns in how many masks Pillow's red channel holds the ids; raises where one differs."""
    records = list_source(str(root)).records
    for record in records:
        (path,) = (root / "data").glob(f"*/{record.split}/mask/{record.image_id}.png")
        with Image.open(path) as image:
            _refuse_difference(record.image_id, record.mask, np.asarray(image.convert("RGB"))[:, :, 0])
    return len(records)


def _refuse_difference(image_id: str, mask: Any, expected: np.ndarray) -> None:
    if mask is None or not np.array_equal(mask.read(), expected):
        raise ItemError(f"the mask of {image_id} differs from what Pillow reads")


def write_parquet(folder: Path, out: Path) -> None:
    """Writes the folder as the `datasets` library does: one Parquet file a split, images and labels as bytes."""
    from datasets import Dataset, Features, Value
    from datasets import Image as DecodedImage

    (out / "data").mkdir(parents=True)
    shutil.copyfile(folder / "classes.txt", out / "classes.txt")
    features = Features({"image": DecodedImage(), "label": DecodedImage(), "id": Value("string")})
    for split in ("train", "test"):
        rows = {"folder": str(folder), "names": stems(folder, split)}
        cache = str(out / "cache")
        table = Dataset.from_generator(_parquet_rows, features=features, cache_dir=cache, gen_kwargs=rows)
        table.to_parquet(out / "data" / f"{split}-00000-of-00001.parquet")
        shutil.rmtree(cache)


def _parquet_rows(folder: str, names: list[str]) -> Iterator[dict[str, Any]]:
    # the library writes a path without bytes as a path; with bytes, a name that is not a file here is kept
    for stem in names:
        files = (("image", "images", f"{stem}.jpg"), ("label", "masks", f"{stem}.png"))
        images = {key: {"bytes": Path(folder, kind, name).read_bytes(), "path": name} for key, kind, name in files}
        yield {**images, "id": stem}
