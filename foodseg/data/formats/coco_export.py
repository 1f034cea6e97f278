"""Writes a data set as COCO: `images/` and `annotations/instances_<split>.json`, one RLE per picture and ingredient.

    export_coco("../shared/datasets/foodmix", "foodmix-coco")

Ids stay what they are: category k is class k, background has no category, and the id of a picture stands beside its
`file_name` too, as `foodseg_id`: an id such as "train/1" becomes a file in a folder. COCO has neither ignored pixels
nor, in one file, pictures with and without labels: such a data set is refused.
"""

from typing import Any

import numpy as np
from pycocotools import mask as coco_api

from foodseg import storage
from foodseg.classes import BACKGROUND
from foodseg.data.formats.coco import OWN_ID
from foodseg.data.formats.detect import Format, list_source
from foodseg.data.image_io import open_picture
from foodseg.data.record import Record
from foodseg.errors import UserError
from foodseg.progress import Progress


def export_coco(src: str, dst: str, format: Format = "auto") -> None:
    """Writes the data set at `src` to `dst`, each JSON after its pictures.

    Raises:
        UserError: a record without mask, or with ignored pixels; what `list_source` and reading the files raise.
    """
    listing = list_source(src, format)
    categories = [{"id": index, "name": name} for index, name in enumerate(listing.classes.names) if index]
    splits = dict.fromkeys(record.split for record in listing.records)
    with Progress("exporting", len(listing.records)) as progress:
        for split in splits:
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number, record in enumerate((r for r in listing.records if r.split == split), start=1):
                mask = _mask(record, listing.classes.ignore_id)
                name = _copy_picture(record, dst)
                height, width = mask.shape
                entry = {"id": number, "file_name": name, "height": height, "width": width, OWN_ID: record.image_id}
                images.append(entry)
                annotations += [
                    {"id": len(annotations) + i, "image_id": number, **region}
                    for i, region in enumerate(_regions(mask), start=1)
                ]
                progress.advance(1)
            storage.write_json(
                storage.join(dst, "annotations", f"instances_{split}.json"),
                {"images": images, "annotations": annotations, "categories": categories},
            )


def _mask(record: Record, ignore_id: int) -> np.ndarray:
    if record.mask is None:
        raise UserError(f"{record.image_id} has no mask: COCO would take it for a picture without ingredients")
    mask = record.mask.read()
    if (mask == ignore_id).any():
        raise UserError(f"the mask of {record.image_id} has ignored pixels, which COCO cannot say")
    return mask


def _copy_picture(record: Record, dst: str) -> str:
    data = record.image.read()
    with open_picture(data) as picture:  # a phone's JPEG may be an MPO to Pillow: several pictures in one file
        extension = "jpg" if picture.format in ("JPEG", "MPO") else str(picture.format).lower()
    name = f"{record.image_id}.{extension}"
    storage.write_bytes(storage.join(dst, "images", name), data)
    return name


def _regions(mask: np.ndarray) -> list[dict[str, Any]]:
    regions = []
    for index in np.unique(mask[mask != BACKGROUND]).tolist():
        rle = coco_api.encode(np.asfortranarray(mask == index, dtype=np.uint8))
        regions.append(
            {
                "category_id": index,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "area": int(coco_api.area(rle)),
                "bbox": coco_api.toBbox(rle).tolist(),
                "iscrowd": 0,
            }
        )
    return regions
