"""Writes a data set as COCO: `images/` and `annotations/instances_<split>.json`, one RLE per image and ingredient.

    listing = list_source("my/meals")
    export_coco(listing.records, listing.classes, "meals-coco")

Ids are kept: category k is class k, and background has no category. The id of an image is also written next to its
`file_name`, as `foodseg_id`: an id such as "train/1" becomes a file in a folder. COCO cannot express ignored pixels,
nor images with and without labels in one file: such a data set is refused.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco_api

from foodseg import storage
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.data.image_io import open_image
from foodseg.data.unread import UnreadImage, UnreadMask
from foodseg.errors import UserError
from foodseg.progress import Progress

OWN_ID = "foodseg_id"  # key of an image: its id, which the file name may not show in full


class LabelledImage(Protocol):
    """An image of a data set and its mask, as `prepare.record.Record` holds them."""

    @property
    def image_id(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def image(self) -> UnreadImage: ...
    @property
    def mask(self) -> UnreadMask | None: ...


def export_coco(records: Sequence[LabelledImage], classes: ClassTable, dst: str) -> None:
    """Writes a data set to the folder `dst`, each JSON after its images.

    Raises:
        UserError: a record without mask, or with ignored pixels; what reading the files raises.
    """
    categories = [{"id": index, "name": name} for index, name in enumerate(classes.names) if index]
    splits = dict.fromkeys(record.split for record in records)
    with Progress("exporting", len(records)) as progress:
        for split in splits:
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for number, record in enumerate((r for r in records if r.split == split), start=1):
                mask = _mask(record, classes.ignore_id)
                name = _copy_image(record, dst)
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


def _mask(record: LabelledImage, ignore_id: int) -> np.ndarray:
    if record.mask is None:
        raise UserError(f"{record.image_id} has no mask: COCO would take it for an image without ingredients")
    mask = record.mask.read()
    if (mask == ignore_id).any():
        raise UserError(f"the mask of {record.image_id} has ignored pixels, which COCO cannot express")
    return mask


def _copy_image(record: LabelledImage, dst: str) -> str:
    data = record.image.read()
    with open_image(data) as image:  # a phone's JPEG may be an MPO to Pillow: several images in one file
        extension = "jpg" if image.format in ("JPEG", "MPO") else str(image.format).lower()
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
