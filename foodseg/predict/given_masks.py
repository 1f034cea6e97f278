"""Masks of an image that the user already has, from a file in any of the usual forms.

    masks = read_masks("lunch.png", (480, 640))      # n x (480, 640) bool
    masks = parse_masks(json.loads(text), (480, 640))

A PNG has one region for each value but 0, a label map or numbered instances. JSON is a COCO document of one image, or a
list of annotations as segment-anything writes it, or of segmentations: RLE, compressed or not, and polygons.

Shape letters: H, W of the image; n masks.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from foodseg import storage
from foodseg.annotations.coco_segmentation import Polygons, Rle, encode, parse_segmentation
from foodseg.data.image_io import BadFile, decode_mask
from foodseg.errors import UserError
from foodseg.predict.image_list import stem_of

MOST = 1000  # masks of one image


def masks_file(masks: str, image: str) -> str:
    """Returns the file of an image's masks: `masks` itself, or in a folder the one with the image's stem.

    Raises:
        UserError: the folder has none, or both a PNG and a JSON.
    """
    if masks.lower().endswith((".png", ".json")):
        return masks
    names = set(storage.list_names(masks))
    found = [name for name in (f"{stem_of(image)}.png", f"{stem_of(image)}.json") if name in names]
    if len(found) != 1:
        what = "both a PNG and a JSON" if found else "no PNG or JSON"
        raise UserError(
            f"--masks {storage.redact(masks)} has {what} of {storage.redact(image)}: name one {stem_of(image)}.png"
        )
    return storage.join(masks, found[0])


def read_masks(uri: str, size: tuple[int, int]) -> list[np.ndarray]:
    """Reads the masks of one image of `size` (height, width); n x (H, W) bool.

    Raises:
        UserError: it cannot be read, is of another size, has no mask or more than MOST.
    """
    data, shown = storage.read_bytes(uri), storage.redact(uri)
    try:
        if uri.lower().endswith(".json"):
            return parse_masks(json.loads(data), size)
        return masks_of_map(decode_mask(data), size)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{shown} is not JSON: {error}") from None
    except (UserError, BadFile) as error:
        raise UserError(f"{shown}: {error}") from None


def masks_of_map(ids: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Returns a mask for each value but 0 of (H, W) integers. UserError: another size, no value or more than MOST."""
    return [ids == value for value in values_of_map(ids, size)]


def values_of_map(ids: np.ndarray, size: tuple[int, int], most: int = MOST) -> list[int]:
    """Returns the values but 0 of (H, W) integers, ascending. UserError: another size, no value or more than `most`."""
    if ids.shape != size:
        raise UserError(f"it has {ids.shape[1]} x {ids.shape[0]} pixels, and the image {size[1]} x {size[0]}")
    values = [value for value in np.unique(ids).tolist() if value != 0]
    _require_count(len(values), "a PNG of masks has one value for each, 0 elsewhere", most)
    return values


def parse_masks(value: Any, size: tuple[int, int]) -> list[np.ndarray]:
    """Returns n x (H, W) bool of parsed JSON. UserError: it is none of the forms above."""
    codes = [rle_of(parse_entry(entry, index), index, size) for index, entry in enumerate(entries_of(value))]
    return [coco_mask.decode(code).astype(bool) for code in codes]


def entries_of(value: Any, most: int = MOST) -> list[Any]:
    """Returns the entries of parsed JSON, an annotation or a segmentation each, for `parse_entry`.

    Raises:
        UserError: it is none of the forms above, has no entry or more than `most`.
    """
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        images = value.get("images")
        if isinstance(images, list) and len(images) > 1:
            raise UserError(f"the document is of {len(images)} images: give one file for each image")
        value = value["annotations"]
    if not isinstance(value, list):
        raise UserError("masks are a list of segmentations (RLE or polygons), or a COCO document")
    _require_count(len(value), "give at least one segmentation", most)
    return value


def parse_entry(entry: Any, index: int) -> Polygons | Rle:
    """Returns the polygons or RLE of one entry, of any size. UserError: it is malformed."""
    try:
        return parse_segmentation(segmentation_of(entry))
    except UserError as error:
        raise UserError(f"mask {index}: {error}") from None


def segmentation_of(entry: Any) -> Any:
    """Returns the segmentation of an entry, which may be one itself."""
    return entry["segmentation"] if isinstance(entry, dict) and "segmentation" in entry else entry


def rle_of(parsed: Polygons | Rle, index: int, size: tuple[int, int]) -> dict[str, Any]:
    """Returns one entry as compressed RLE for pycocotools. UserError: it is of another size, or has no pixel."""
    try:
        code = encode(parsed, *size)
    except UserError as error:
        raise UserError(f"mask {index}: {error}") from None
    if not coco_mask.area(code):
        raise UserError(f"mask {index} has no pixel")
    return code


def _require_count(count: int, hint: str, most: int = MOST) -> None:
    if not 1 <= count <= most:
        raise UserError(f"found {count:,} masks, and 1 to {most:,} are read: {hint}")


def require_masks(masks: Sequence[np.ndarray], size: tuple[int, int]) -> list[np.ndarray]:
    """Returns masks that a caller gives as arrays as n x (H, W) bool.

    Raises:
        UserError: one is not an (H, W) array of `size`, or has no pixel.
    """
    found = []
    for index, mask in enumerate(masks):
        array = np.asarray(mask)
        if array.shape != size:
            raise UserError(f"masks[{index}] has shape {array.shape}, and the image {size} (height, width)")
        if not array.any():
            raise UserError(f"masks[{index}] has no pixel")
        found.append(array.astype(bool))
    _require_count(len(found), "give a list of arrays (H, W)")
    return found
