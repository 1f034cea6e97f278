"""UEC-FoodPix Complete as it is downloaded; the case of names varies between copies.

    UECFOODPIXCOMPLETE/data/category.txt                   a header line, then id<TAB>name, 103 ids, 0 = background
    UECFOODPIXCOMPLETE/data/{train9000,test1000}.txt       images, one a line, with or without extension
    UECFOODPIXCOMPLETE/data/UECFoodPIXCOMPLETE/{train,test}/img/1.jpg
    UECFOODPIXCOMPLETE/data/UECFoodPIXCOMPLETE/{train,test}/mask/1.png    the class id is the red channel

The source is that folder, `data` in it or the folder around it. Some masks of the download have width and height
swapped relative to their image: they are read as stored, and the audit turns them. (Okamoto, Yanai:
"UEC-FoodPIX Complete: A Large-scale Food Image Segmentation Dataset".)
"""

from dataclasses import dataclass

import numpy as np

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.image_io import BadFile, open_image, undecodable
from foodseg.prepare.formats.layout import locate, missing, refuse_missing
from foodseg.prepare.formats.split_records import ListedSplit, listed_records
from foodseg.prepare.record import SourceListing

NEEDS = "data/category.txt, data/train9000.txt, data/UECFoodPIXCOMPLETE/"
SOURCE = "uecfoodpix"
_LISTS = {"train": "train9000.txt", "test": "test1000.txt"}
FILES = ("category.txt", "train9000.txt", "UECFoodPIXCOMPLETE/train/img", "UECFoodPIXCOMPLETE/train/mask")
_RGB, _RGBA = 2, 6  # colour types of PNG


@dataclass(frozen=True, slots=True)
class MaskRedChannel:
    """A mask that is one PNG file whose red channel is the class id."""

    uri: str

    def read(self) -> np.ndarray:
        return self.decode(storage.read_bytes(self.uri))

    def decode(self, data: bytes) -> np.ndarray:
        return decode_colours(data)[:, :, 0]


def missing_in_uecfoodpix(src: str) -> list[str]:
    """Returns what `src` lacks to be a download of UEC-FoodPix Complete; [] = nothing."""
    return missing(_root(src), FILES)


def list_uecfoodpix(src: str) -> SourceListing:
    """Lists UEC-FoodPix Complete; opens no image.

    Raises:
        UserError: not this layout (naming what is missing), or a class table that does not parse.
    """
    refuse_missing(src, missing_in_uecfoodpix(src), "laid out as UEC-FoodPix Complete", NEEDS)
    root = _root(src)
    splits = [
        ListedSplit(
            split,
            names=locate(root, names),
            images=locate(root, f"UECFoodPIXCOMPLETE/{split}/img"),
            masks=locate(root, f"UECFoodPIXCOMPLETE/{split}/mask"),
        )
        for split, names in _LISTS.items()
        if not missing(root, [names])
    ]
    return SourceListing(_class_table(locate(root, "category.txt")), listed_records(splits, SOURCE, MaskRedChannel))


def decode_colours(data: bytes) -> np.ndarray:
    """Decodes a mask that is a colour PNG to (H, W, 3) uint8 RGB; transparency is left out.

    Raises:
        BadFile: unreadable, truncated, too many pixels, or not a PNG of 8-bit RGB or RGBA.
    """
    image = open_image(data)
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise BadFile("a mask with its class ids in the red channel is a PNG file, this one is not", "mask_mode")
    depth, colour_type = data[24], data[25]
    if depth != 8 or colour_type not in (_RGB, _RGBA):
        kind = {0: "grey", _RGB: "RGB", 3: "palette", 4: "grey with alpha", _RGBA: "RGBA"}.get(colour_type, "other")
        raise BadFile(
            f"class ids in the red channel need a PNG of 8-bit RGB or RGBA, this one is {depth}-bit {kind}", "mask_mode"
        )
    try:
        return np.array(image)[:, :, :3]
    except Exception as error:  # Pillow may raise anything
        raise undecodable("mask", data, error) from None


def _class_table(uri: str) -> ClassTable:
    text = storage.read_text(uri)
    header, _, lines = text.partition("\n")
    if not header.partition("\t")[0].strip()[:1].isdecimal():
        text = f"\n{lines}"  # an empty line replaces the header, so that errors have the line numbers of the file
    return ClassTable.from_text(text, storage.redact(uri))


def _root(src: str) -> str:
    for below in ("data", "UECFOODPIXCOMPLETE/data"):
        if not missing(src, [f"{below}/category.txt"]):
            return locate(src, below)
    return src
