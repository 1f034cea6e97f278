"""Label maps as COCO: one RLE per image and ingredient; a whole data set as `images/` and `annotations/`.

    document = CocoDocument(classes)
    document.add("lunch.jpg", ids)
    json.dumps(document.to_json())

    listing = list_source("my/meals")
    export_coco(listing.records, listing.classes, "meals-coco")  # writes annotations/instances_<split>.json

Ids are kept: category k is class k, and background has no category. The id of an image is also written next to its
`file_name`, as `foodseg_id`: an id such as "train/1" becomes a file in a folder. COCO cannot express ignored pixels,
nor images with and without labels in one file: such a data set is refused.
"""

from collections.abc import Mapping, Sequence
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


class CocoDocument:
    """A COCO document that grows image by image; only RLE is kept of a label map."""

    def __init__(self, classes: ClassTable) -> None:
        self._categories = [{"id": index, "name": name} for index, name in enumerate(classes.names) if index]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(
        self,
        file_name: str,
        ids: np.ndarray,
        *,
        confidences: Mapping[int, float] | None = None,
        image_id: int | None = None,
        own_id: str | None = None,
    ) -> None:
        """Adds an image with an annotation for each ingredient of its label map.

        Args:
            ids: (H, W) ids of the classes, without ignored pixels.
            confidences: by id, in [0, 1]; they become the `score` of each annotation, as in COCO's results.
            image_id: None = one more than that of the image before, from 1 on.
            own_id: id of the image in foodseg, which the file name may not show in full.
        """
        regions = _regions(ids)
        if confidences is not None:
            regions = [{**region, "score": confidences[region["category_id"]]} for region in regions]
        self.add_regions(file_name, (ids.shape[0], ids.shape[1]), regions, image_id=image_id, own_id=own_id)

    def add_regions(
        self,
        file_name: str,
        size: tuple[int, int],
        regions: Sequence[Mapping[str, Any]],
        *,
        image_id: int | None = None,
        own_id: str | None = None,
    ) -> None:
        """Adds an image of `size` (height, width) with annotations, COCO's but for `id` and `image_id`."""
        number = image_id if image_id is not None else len(self._images) + 1
        image = {"id": number, "file_name": file_name, "height": size[0], "width": size[1]}
        self._images.append(image if own_id is None else {**image, OWN_ID: own_id})
        for region in regions:
            self._annotations.append({"id": len(self._annotations) + 1, "image_id": number, **region})

    def to_json(self) -> dict[str, Any]:
        """Returns the document, which `json.dumps` takes: `images`, `annotations`, `categories`."""
        return {"images": self._images, "annotations": self._annotations, "categories": self._categories}


def export_coco(records: Sequence[LabelledImage], classes: ClassTable, dst: str) -> None:
    """Writes a data set to the folder `dst`, each JSON after its images.

    Raises:
        UserError: a record without mask, or with ignored pixels; what reading the files raises.
    """
    splits = dict.fromkeys(record.split for record in records)
    with Progress("exporting", len(records)) as progress:
        for split in splits:
            document = CocoDocument(classes)
            for record in (r for r in records if r.split == split):
                mask = _mask(record, classes.ignore_id)
                document.add(_copy_image(record, dst), mask, own_id=record.image_id)
                progress.advance(1)
            storage.write_json(storage.join(dst, "annotations", f"instances_{split}.json"), document.to_json())


def _mask(record: LabelledImage, ignore_id: int) -> np.ndarray:
    if record.mask is None:
        raise no_mask(record.image_id)
    mask = record.mask.read()
    if (mask == ignore_id).any():
        raise UserError(f"the mask of {record.image_id} has ignored pixels, which COCO cannot express")
    return mask


def no_mask(image_id: str) -> UserError:
    """Returns the error for an image without mask."""
    return UserError(f"{image_id} has no mask: COCO would take it for an image without ingredients")


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
